use std::{collections::BTreeMap, fs::File, ops::Range, path::Path};

use anyhow::Context;
use arrow::{
    array::{Array, AsArray, RecordBatch},
    compute::cast,
    datatypes::{ArrowPrimitiveType, DataType, Float64Type, Int64Type, TimeUnit},
};
use medlake_operational::{calendar::SHANGHAI_MICROS, mall::RecordedLine};
use parquet::arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder};

const BATCH_ROWS: usize = 65_536;

/// The recording in memory: about 80 MB.
pub(super) struct Recording {
    /// In the order of their times.
    pub(super) baskets: Vec<Basket>,
    /// Those of one basket are together.
    pub(super) lines: Vec<Line>,
    /// By product id.
    pub(super) products: BTreeMap<i64, ProductRecord>,
}

pub(super) struct Basket {
    pub(super) basket_id: i64,
    pub(super) household_id: i64,
    pub(super) store_id: i64,
    /// Microseconds since 1970 (UTC).
    pub(super) at_micros: i64,
    pub(super) lines: Range<usize>,
}

pub(super) struct Line {
    pub(super) product_id: i64,
    pub(super) quantity: i64,
    sales_value_fen: i64,
    retail_disc_fen: i64,
    pub(super) coupon_disc_fen: i64,
    coupon_match_disc_fen: i64,
}

#[derive(Default)]
pub(super) struct ProductRecord {
    pub(super) name: Option<String>,
    pub(super) category: Option<String>,
    pub(super) department: Option<String>,
    pub(super) brand: Option<String>,
}

impl Line {
    /// The amounts as an order line has them.
    pub(super) fn recorded(&self) -> RecordedLine {
        RecordedLine {
            order_line_id: None,
            product_id: self.product_id,
            quantity: self.quantity,
            list_amount_fen: self.sales_value_fen
                + self.coupon_match_disc_fen
                + self.retail_disc_fen,
            disc_item_fen: self.retail_disc_fen,
            disc_full_reduction_fen: 0,
            disc_coupon_merchant_fen: self.coupon_match_disc_fen,
            disc_coupon_platform_fen: self.coupon_disc_fen,
            disc_points_fen: 0,
        }
    }
}

impl Recording {
    pub(super) fn read(folder: &Path) -> anyhow::Result<Self> {
        let mut recording =
            Self { baskets: Vec::new(), lines: Vec::new(), products: BTreeMap::new() };
        let columns = [
            "household_id",
            "store_id",
            "basket_id",
            "product_id",
            "quantity",
            "sales_value",
            "retail_disc",
            "coupon_disc",
            "coupon_match_disc",
            "transaction_timestamp",
        ];
        read_file(&folder.join("transactions.parquet"), &columns, |batch| {
            recording.add_transactions(batch)
        })?;
        let columns = ["product_id", "department", "brand", "product_category", "product_type"];
        read_file(&folder.join("products.parquet"), &columns, |batch| {
            recording.add_products(batch)
        })?;
        // Stable, so baskets of one second stay as recorded.
        recording.baskets.sort_by_key(|b| b.at_micros);
        let mut ids: Vec<i64> = recording.baskets.iter().map(|b| b.basket_id).collect();
        ids.sort_unstable();
        if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            anyhow::bail!("the lines of basket {} are not together", twice[0]);
        }
        Ok(recording)
    }

    fn add_transactions(&mut self, batch: &RecordBatch) -> anyhow::Result<()> {
        let integers = |name| values::<Int64Type>(batch, name, &DataType::Int64);
        let fen = |name| fen_values(batch, name);
        let [household, store, basket, product, quantity] = [
            integers("household_id")?,
            integers("store_id")?,
            integers("basket_id")?,
            integers("product_id")?,
            integers("quantity")?,
        ];
        let [sales, retail, coupon, coupon_match] = [
            fen("sales_value")?,
            fen("retail_disc")?,
            fen("coupon_disc")?,
            fen("coupon_match_disc")?,
        ];
        let times = times(batch, "transaction_timestamp")?;
        for row in 0..batch.num_rows() {
            let at = self.lines.len();
            let at_micros = times[row] - SHANGHAI_MICROS;
            match self.baskets.last_mut() {
                Some(last)
                    if last.basket_id == basket[row]
                        && last.at_micros == at_micros
                        && last.store_id == store[row]
                        && last.household_id == household[row] =>
                {
                    last.lines.end = at + 1;
                }
                _ => self.baskets.push(Basket {
                    basket_id: basket[row],
                    household_id: household[row],
                    store_id: store[row],
                    at_micros,
                    lines: at..at + 1,
                }),
            }
            self.lines.push(Line {
                product_id: product[row],
                quantity: quantity[row],
                sales_value_fen: sales[row],
                retail_disc_fen: retail[row],
                coupon_disc_fen: coupon[row],
                coupon_match_disc_fen: coupon_match[row],
            });
        }
        Ok(())
    }

    fn add_products(&mut self, batch: &RecordBatch) -> anyhow::Result<()> {
        let ids = values::<Int64Type>(batch, "product_id", &DataType::Int64)?;
        let texts = |name| texts(batch, name);
        let [names, categories, departments, brands] = [
            texts("product_type")?,
            texts("product_category")?,
            texts("department")?,
            texts("brand")?,
        ];
        let texts = names.into_iter().zip(categories).zip(departments).zip(brands);
        for (id, (((name, category), department), brand)) in ids.into_iter().zip(texts) {
            self.products.insert(id, ProductRecord { name, category, department, brand });
        }
        Ok(())
    }
}

pub(super) fn read_file(
    path: &Path,
    columns: &[&str],
    mut add: impl FnMut(&RecordBatch) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let context = || format!("could not read {}", path.display());
    let file = File::open(path).with_context(context)?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).with_context(context)?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
    let batches =
        builder.with_projection(mask).with_batch_size(BATCH_ROWS).build().with_context(context)?;
    for batch in batches {
        add(&batch.with_context(context)?).with_context(context)?;
    }
    Ok(())
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> anyhow::Result<&'a dyn Array> {
    Ok(batch
        .column_by_name(name)
        .with_context(|| format!("there is no column \"{name}\""))?
        .as_ref())
}

pub(super) fn values<T: ArrowPrimitiveType>(
    batch: &RecordBatch,
    name: &str,
    ty: &DataType,
) -> anyhow::Result<Vec<T::Native>> {
    let column = cast(column(batch, name)?, ty)?;
    anyhow::ensure!(column.null_count() == 0, "column \"{name}\" has nulls");
    Ok(column.as_primitive::<T>().values().to_vec())
}

pub(super) fn texts(batch: &RecordBatch, name: &str) -> anyhow::Result<Vec<Option<String>>> {
    let texts = cast(column(batch, name)?, &DataType::Utf8)?;
    Ok(texts.as_string::<i32>().iter().map(|t| t.map(str::to_owned)).collect())
}

/// Wall-clock times as microseconds, as if they were UTC.
pub(super) fn times(batch: &RecordBatch, name: &str) -> anyhow::Result<Vec<i64>> {
    let micros = cast(column(batch, name)?, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
    let integers = cast(&micros, &DataType::Int64)?;
    anyhow::ensure!(integers.null_count() == 0, "column \"{name}\" has nulls");
    Ok(integers.as_primitive::<Int64Type>().values().to_vec())
}

fn fen_values(batch: &RecordBatch, name: &str) -> anyhow::Result<Vec<i64>> {
    values::<Float64Type>(batch, name, &DataType::Float64)?
        .into_iter()
        .map(|amount| {
            fen(amount).with_context(|| format!("{amount} in \"{name}\" is not an amount of money"))
        })
        .collect()
}

/// An amount with two decimals, held in a double, in hundredths.
#[expect(clippy::cast_possible_truncation, reason = "checked to be a whole number below 2^53")]
fn fen(amount: f64) -> Option<i64> {
    let hundredths = (amount * 100.0).round();
    let exact = (hundredths / 100.0 - amount).abs() < 1e-7 && hundredths.abs() < 1e12;
    exact.then_some(hundredths as i64)
}
