//! How a table is laid out: what its owner chooses, and how it stands in Iceberg's metadata.

use std::collections::{BTreeSet, HashMap};

use iceberg::spec::{
    self, NullOrder, Schema, SortDirection, SortOrder, TableMetadata, Type, UnboundPartitionSpec,
};
use medlake_contract::TableName;

use crate::{error::LakeError, format::schema::metadata_error};

const TARGET_FILE_BYTES: &str = "write.target-file-size-bytes";
const CODEC: &str = "write.parquet.compression-codec";
const CODEC_LEVEL: &str = "write.parquet.compression-level";
const BLOOM_FILTER: &str = "write.parquet.bloom-filter-enabled.column.";
/// zstd's own default.
const ZSTD_LEVEL: u8 = 3;

/// The version of the Iceberg format a table is written in. It can be raised later, never lowered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FormatVersion {
    /// Dead rows in position delete files: what most engines read.
    V2,
    /// Dead rows in deletion vectors, one a data file, and rows with ids.
    V3,
}

impl FormatVersion {
    pub(crate) fn of(metadata: &TableMetadata) -> Self {
        match metadata.format_version() {
            spec::FormatVersion::V1 | spec::FormatVersion::V2 => Self::V2,
            spec::FormatVersion::V3 => Self::V3,
        }
    }

    pub(crate) fn iceberg(self) -> spec::FormatVersion {
        match self {
            Self::V2 => spec::FormatVersion::V2,
            Self::V3 => spec::FormatVersion::V3,
        }
    }
}

/// What of a column's value decides the partition of a row (Iceberg specification, "Partition
/// Transforms").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transform {
    /// The value itself.
    Identity,
    /// The year of a date or timestamp.
    Year,
    /// The month of a date or timestamp.
    Month,
    /// The day of a date or timestamp.
    Day,
    /// The hour of a timestamp.
    Hour,
    /// One of so many buckets by the value's hash.
    Bucket(u32),
    /// The value rounded down to a multiple of this; of text, its first characters.
    Truncate(u32),
}

/// One column a table is partitioned by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PartitionField {
    /// The column's name.
    pub column: String,
    /// What of its value counts.
    pub transform: Transform,
}

/// One column the rows of a file are sorted by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SortField {
    /// The column's name.
    pub column: String,
    /// From great to small.
    pub descending: bool,
    /// Rows without a value come last.
    pub nulls_last: bool,
}

impl SortField {
    /// From small to great, rows without a value first.
    pub fn ascending(column: impl Into<String>) -> Self {
        Self { column: column.into(), descending: false, nulls_last: false }
    }
}

/// How the columns of data files are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Zstandard of this level, 1 to 22.
    Zstd(u8),
    /// Snappy: faster, and larger.
    Snappy,
    /// Not at all.
    None,
}

/// How a table is laid out. Whatever is chosen, its rows are the same; old files keep the layout
/// they were written in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableOptions {
    /// The version of the format.
    pub format_version: FormatVersion,
    /// Rows of different values of these never share a file. Queries that name the columns leave
    /// whole files out; each flush writes a file for every partition it touches.
    pub partition: Vec<PartitionField>,
    /// The order of the rows within a file.
    pub sort: Vec<SortField>,
    /// A data file that reaches this size, in bytes, is ended and another begun.
    pub target_file_bytes: u64,
    /// Columns with Bloom filters: those looked up by single values, whose values are scattered over
    /// the files.
    pub bloom_filters: BTreeSet<String>,
    /// The compression of the files.
    pub compression: Compression,
}

impl Default for TableOptions {
    fn default() -> Self {
        Self {
            format_version: FormatVersion::V2,
            partition: Vec::new(),
            sort: Vec::new(),
            target_file_bytes: 512 << 20,
            bloom_filters: BTreeSet::new(),
            compression: Compression::Zstd(ZSTD_LEVEL),
        }
    }
}

impl Transform {
    fn iceberg(self) -> spec::Transform {
        match self {
            Self::Identity => spec::Transform::Identity,
            Self::Year => spec::Transform::Year,
            Self::Month => spec::Transform::Month,
            Self::Day => spec::Transform::Day,
            Self::Hour => spec::Transform::Hour,
            Self::Bucket(count) => spec::Transform::Bucket(count),
            Self::Truncate(width) => spec::Transform::Truncate(width),
        }
    }

    fn of(transform: spec::Transform) -> Option<Self> {
        Some(match transform {
            spec::Transform::Identity => Self::Identity,
            spec::Transform::Year => Self::Year,
            spec::Transform::Month => Self::Month,
            spec::Transform::Day => Self::Day,
            spec::Transform::Hour => Self::Hour,
            spec::Transform::Bucket(count) => Self::Bucket(count),
            spec::Transform::Truncate(width) => Self::Truncate(width),
            spec::Transform::Void | spec::Transform::Unknown => return None,
        })
    }

    /// The name of the partition field, as Iceberg's own library gives it, in letters Avro takes in a
    /// name: manifests have it as one.
    fn field_name(self, column: &str) -> String {
        let column = &avro_name(column);
        match self {
            Self::Identity => column.clone(),
            Self::Year => format!("{column}_year"),
            Self::Month => format!("{column}_month"),
            Self::Day => format!("{column}_day"),
            Self::Hour => format!("{column}_hour"),
            Self::Bucket(_) => format!("{column}_bucket"),
            Self::Truncate(_) => format!("{column}_trunc"),
        }
    }
}

/// A name with whatever Avro does not take in names replaced by its code.
fn avro_name(name: &str) -> String {
    let mut safe = String::with_capacity(name.len());
    for (at, c) in name.chars().enumerate() {
        match c {
            '0'..='9' if at == 0 => safe.extend(['_', c]),
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' => safe.push(c),
            _ => safe.push_str(&format!("_x{:X}", u32::from(c))),
        }
    }
    safe
}

impl TableOptions {
    /// The options a stored table has. Partition fields that no option stands for are left out:
    /// those that hold nothing.
    pub(crate) fn of(metadata: &TableMetadata) -> Self {
        let schema = metadata.current_schema();
        let column = |id: i32| schema.name_by_field_id(id).unwrap_or_default().to_owned();
        let partition = metadata
            .default_partition_spec()
            .fields()
            .iter()
            .filter_map(|field| {
                let transform = Transform::of(field.transform)?;
                Some(PartitionField { column: column(field.source_id), transform })
            })
            .collect();
        let sort = metadata
            .default_sort_order()
            .fields
            .iter()
            .map(|field| SortField {
                column: column(field.source_id),
                descending: field.direction == SortDirection::Descending,
                nulls_last: field.null_order == NullOrder::Last,
            })
            .collect();
        let defaults = Self::default();
        let properties = metadata.properties();
        let number = |name: &str| properties.get(name).and_then(|value| value.parse().ok());
        let bloom_filters = properties
            .iter()
            .filter(|(_, value)| *value == "true")
            .filter_map(|(name, _)| name.strip_prefix(BLOOM_FILTER).map(ToOwned::to_owned))
            .collect();
        let level = || properties.get(CODEC_LEVEL).and_then(|level| level.parse().ok());
        let compression = match properties.get(CODEC).map(String::as_str) {
            Some("uncompressed" | "none") => Compression::None,
            Some("snappy") => Compression::Snappy,
            // Another program's choice of a codec that is not built in does not stop the table.
            _ => Compression::Zstd(level().unwrap_or(ZSTD_LEVEL).clamp(1, 22)),
        };
        Self {
            format_version: FormatVersion::of(metadata),
            partition,
            sort,
            target_file_bytes: number(TARGET_FILE_BYTES).unwrap_or(defaults.target_file_bytes),
            bloom_filters,
            compression,
        }
    }

    /// Checks the options against the columns of the table.
    pub(crate) fn check(&self, table: &TableName, schema: &Schema) -> Result<(), LakeError> {
        let wrong = |problem: String| LakeError::Options { table: table.clone(), problem };
        let ty = |column: &str, what: &str| {
            let field = schema.as_struct().fields().iter().find(|field| field.name == column);
            match field.map(|field| field.field_type.as_ref()) {
                Some(Type::Primitive(ty)) => Ok(ty.clone()),
                Some(_) => Err(wrong(format!("{what} column \"{column}\" is not a single value"))),
                None => Err(wrong(format!("{what} column \"{column}\" is missing"))),
            }
        };
        let mut names = BTreeSet::new();
        for PartitionField { column, transform } in &self.partition {
            let ty = ty(column, "partition")?;
            let applies = transform.iceberg().result_type(&Type::Primitive(ty.clone())).is_ok()
                && !matches!(ty, spec::PrimitiveType::Float | spec::PrimitiveType::Double)
                && !matches!(transform, Transform::Bucket(0) | Transform::Truncate(0))
                && !matches!(transform, Transform::Bucket(n) | Transform::Truncate(n)
                    if i32::try_from(*n).is_err());
            if !applies {
                let transform = transform.iceberg();
                return Err(wrong(format!("column \"{column}\" has no {transform}")));
            }
            if !names.insert(transform.field_name(column)) {
                return Err(wrong(format!("it is partitioned by \"{column}\" twice")));
            }
        }
        for field in &self.sort {
            ty(&field.column, "sort")?;
        }
        for column in &self.bloom_filters {
            ty(column, "Bloom filter")?;
        }
        if self.target_file_bytes == 0 {
            return Err(wrong("the target file size is zero".to_owned()));
        }
        match self.compression {
            Compression::Zstd(0 | 23..) => Err(wrong("zstd has the levels 1 to 22".to_owned())),
            _ => Ok(()),
        }
    }

    /// The partition specification, for columns with the ids of `schema`.
    pub(crate) fn partition_spec(
        &self,
        table: &TableName,
        schema: &Schema,
    ) -> Result<UnboundPartitionSpec, LakeError> {
        let mut spec = UnboundPartitionSpec::builder();
        for PartitionField { column, transform } in &self.partition {
            let id = schema.field_id_by_name(column).unwrap_or_default();
            spec = spec
                .add_partition_field(id, transform.field_name(column), transform.iceberg())
                .map_err(metadata_error("build the partition specification", table))?;
        }
        Ok(spec.build())
    }

    /// The sort order, for columns with the ids of `schema`.
    pub(crate) fn sort_order(
        &self,
        table: &TableName,
        schema: &Schema,
    ) -> Result<SortOrder, LakeError> {
        let fields = self.sort.iter().map(|field| spec::SortField {
            source_id: schema.field_id_by_name(&field.column).unwrap_or_default(),
            transform: spec::Transform::Identity,
            direction: match field.descending {
                true => SortDirection::Descending,
                false => SortDirection::Ascending,
            },
            null_order: match field.nulls_last {
                true => NullOrder::Last,
                false => NullOrder::First,
            },
        });
        SortOrder::builder()
            .with_fields(fields.collect())
            .build(schema)
            .map_err(metadata_error("build the sort order", table))
    }

    /// The options that are table properties.
    pub(crate) fn properties(&self) -> HashMap<String, String> {
        let mut properties =
            HashMap::from([(TARGET_FILE_BYTES.to_owned(), self.target_file_bytes.to_string())]);
        let codec = match self.compression {
            Compression::Zstd(level) => {
                properties.insert(CODEC_LEVEL.to_owned(), level.to_string());
                "zstd"
            }
            Compression::Snappy => "snappy",
            Compression::None => "uncompressed",
        };
        properties.insert(CODEC.to_owned(), codec.to_owned());
        let filters = self.bloom_filters.iter();
        properties.extend(filters.map(|c| (format!("{BLOOM_FILTER}{c}"), "true".to_owned())));
        properties
    }

    /// Properties of `before` that these options do not have.
    pub(crate) fn properties_gone(&self, before: &Self) -> Vec<String> {
        let now = self.properties();
        before.properties().into_keys().filter(|name| !now.contains_key(name)).collect()
    }
}
