//! The columns of a table and its layout, changed where it is.

use std::collections::HashMap;

use iceberg::spec::{NestedFieldRef, PrimitiveType, Schema, TableMetadataBuilder};
use medlake_contract::TableSchema;

use crate::{
    alteration::Alteration,
    commit::table::{Built, Cleanup, CommittedTable},
    error::LakeError,
    format::{
        evolve::{Ids, altered, declared},
        schema::{KEY_PROPERTY, build_schema, metadata_error},
    },
    options::TableOptions,
    storage::WriteScope,
};

impl CommittedTable {
    /// The schema of the table when some columns are renamed and it is then declared with these columns.
    pub(crate) fn declared(
        &self,
        schema: &TableSchema,
        renamed: &[(String, String)],
    ) -> Result<Schema, LakeError> {
        let renames = renamed.iter().map(|(before, now)| Alteration::Rename {
            column: before.as_str().into(),
            to: now.clone(),
        });
        let renamed = self.altered(&renames.collect::<Vec<_>>())?;
        self.with_fields(declared(&renamed, &mut Ids::of(&self.metadata), schema))
    }

    /// The schema of the table after these changes.
    pub(crate) fn altered(&self, alterations: &[Alteration]) -> Result<Schema, LakeError> {
        let before = self.metadata.current_schema();
        self.with_fields(altered(before, &mut Ids::of(&self.metadata), alterations))
    }

    /// The schema of these fields, when the table can do without those it had.
    fn with_fields(
        &self,
        fields: Result<Vec<NestedFieldRef>, String>,
    ) -> Result<Schema, LakeError> {
        let wrong = |problem: String| LakeError::Schema { table: self.name.clone(), problem };
        let fields = fields.map_err(wrong)?;
        let before = self.metadata.current_schema();
        let keys = self.key_ids();
        for field in before.as_struct().fields() {
            let after = fields.iter().find(|f| f.id == field.id);
            let of_key = keys.contains(&field.id);
            let whole_number = |field: &NestedFieldRef| {
                let ty = field.field_type.as_primitive_type();
                matches!(ty, Some(PrimitiveType::Int | PrimitiveType::Long))
            };
            let problem = match after {
                None if of_key => "is part of the key",
                Some(after) if of_key && !after.required => {
                    "is part of the key and cannot be nullable"
                }
                // The index holds a single whole number as it is, and other keys by their bytes.
                Some(after)
                    if of_key
                        && after.field_type != field.field_type
                        && (keys.len() > 1 || !whole_number(field)) =>
                {
                    "is part of a key that is kept by its bytes and cannot change its type"
                }
                _ => continue,
            };
            return Err(wrong(format!("column \"{}\" {problem}", field.name)));
        }
        build_schema(&self.name, fields, before.identifier_field_ids())
    }

    /// The field ids of the key columns, in key order.
    fn key_ids(&self) -> Vec<i32> {
        let key = self.metadata.properties().get(KEY_PROPERTY).map_or("", String::as_str);
        let schema = self.metadata.current_schema();
        key.split(',').filter_map(|name| schema.field_id_by_name(name)).collect()
    }

    /// The same table with these columns, and laid out like this from now on; writes its metadata
    /// file. None when it is so already.
    pub(crate) fn alter(
        &self,
        scope: &WriteScope,
        columns: Schema,
        options: Option<&TableOptions>,
    ) -> Result<Option<(Self, Cleanup)>, LakeError> {
        let wrong = |e| metadata_error("change the metadata", &self.name)(e);
        let stored = TableOptions::of(&self.metadata);
        let options = options.filter(|declared| **declared != stored);
        let same_columns = columns.as_struct() == self.metadata.current_schema().as_struct();
        if same_columns && options.is_none() {
            return Ok(None);
        }
        let mut builder = self.metadata.clone().into_builder(Some(self.location.clone()));
        if !same_columns {
            self.check_layout(&columns, options)?;
            // The key is known by its names: they may be other ones now.
            let key: Vec<&str> =
                self.key_ids().into_iter().filter_map(|id| columns.name_by_field_id(id)).collect();
            let key = HashMap::from([(KEY_PROPERTY.to_owned(), key.join(","))]);
            builder = builder
                .add_current_schema(columns.clone())
                .and_then(|builder| builder.set_properties(key))
                .map_err(wrong)?;
        }
        if let Some(options) = options {
            options.check(&self.name, &columns)?;
            if options.format_version < stored.format_version {
                return Err(LakeError::Options {
                    table: self.name.clone(),
                    problem: "the version of its format cannot be lowered".to_owned(),
                });
            }
            builder =
                builder.upgrade_format_version(options.format_version.iceberg()).map_err(wrong)?;
            if options.partition != stored.partition {
                let spec = options.partition_spec(&self.name, &columns)?;
                builder = builder.add_default_partition_spec(spec).map_err(wrong)?;
            }
            if options.sort != stored.sort {
                builder = builder
                    .add_sort_order(options.sort_order(&self.name, &columns)?)
                    .and_then(|b| {
                        b.set_default_sort_order(i64::from(TableMetadataBuilder::LAST_ADDED))
                    })
                    .map_err(wrong)?;
            }
            builder = builder
                .remove_properties(&options.properties_gone(&stored))
                .and_then(|b| b.set_properties(options.properties()))
                .map_err(wrong)?;
        }
        let Built { metadata, location, updates, dropped } = self.write_next(scope, builder)?;
        let mut next = self.clone();
        (next.metadata, next.location, next.updates) = (metadata, location, updates);
        Ok(Some((next, Cleanup { locations: dropped })))
    }

    /// Refuses to drop a column that new files are laid out by.
    fn check_layout(
        &self,
        columns: &Schema,
        options: Option<&TableOptions>,
    ) -> Result<(), LakeError> {
        let spec = self.metadata.default_partition_spec();
        let order = self.metadata.default_sort_order();
        let used = spec.fields().iter().map(|f| f.source_id);
        let used = used.chain(order.fields.iter().map(|f| f.source_id));
        let gone = used.into_iter().find(|id| columns.field_by_id(*id).is_none());
        match gone.filter(|_| options.is_none()) {
            None => Ok(()),
            Some(id) => Err(LakeError::Schema {
                table: self.name.clone(),
                problem: format!(
                    "column \"{}\" is part of its partitions or sort order: lay the table out without \
                     it first",
                    self.metadata.current_schema().name_by_field_id(id).unwrap_or_default()
                ),
            }),
        }
    }
}
