//! Plays the UCI Online Retail data: invoices of a wholesaler of gifts, with the credit notes that
//! take them back.
//!
//! One CSV file is read, whatever its name: `InvoiceNo, StockCode, Description, Quantity, InvoiceDate,
//! UnitPrice, CustomerID, Country`. How it becomes orders, through the mall's own functions and in
//! order of time:
//! - an invoice is an order, paid at once: its id is its number plus 21,000,000,000;
//! - a country is a pharmacy, a customer a person: its number plus 30,000,000. A customer that is not
//!   named is a person for each invoice: its number plus 31,000,000;
//! - a stock code is a product, numbered from 30,000,001 on in the order they come;
//! - amounts are pence, taken for fen; a recorded time is the wall clock of Asia/Shanghai;
//! - a line of a credit note (its number begins with `C`) refunds units of the newest earlier line of
//!   the same customer, stock code and price that still has some. What finds none, such as goods that
//!   were bought before the file begins or a discount, is no refund of an order that is here: it is
//!   left out, and the report says how much it comes to;
//! - a line that takes units out of stock at no price is no sale and left out, too.
//!
//! A file whose last line is cut is read up to there, and the report says so; one that is broken
//! elsewhere is refused. A replay that was stopped goes on with the document after the last one.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use anyhow::Context;
use chrono::NaiveDateTime;
use medlake_operational::{
    OperationalError, Scope, Services, WriteTransaction,
    calendar::instant,
    mall::{
        Pricing, RecordedLine,
        orders::{self, Channel, NewOrder},
        payments,
        pharmacies::{self, NewPharmacy},
        products::{self, NewProduct, ProductKind, ReturnPolicy},
        refunds::{self, NewRefund, NewRefundLine},
    },
};
use serde::{Deserialize, Serialize};

use super::{
    delimited::{Delimited, Row, hundredths},
    recording::{PROVINCES, Pace, ReplayReport, UCI_IDS},
};

const PROGRESS: &str = "replay uci";
const ORDER_IDS: i64 = 21_000_000_000;
const ANONYMOUS_IDS: i64 = 1_000_000;
const DOCUMENTS_PER_TRANSACTION: usize = 50;
/// An order has at most so many lines; a longer invoice is more orders.
const LINES_MAX: usize = 500;
/// The further orders of a long invoice are numbered from here on.
const FURTHER_IDS: i64 = 100_000_000;
const COLUMNS: [&str; 8] = [
    "InvoiceNo",
    "StockCode",
    "Description",
    "Quantity",
    "InvoiceDate",
    "UnitPrice",
    "CustomerID",
    "Country",
];

/// The documents in order of time, and what they name.
#[derive(Debug, Default)]
struct Recording {
    documents: Vec<Document>,
    countries: Vec<String>,
    /// By number, from 1: the code, the name and the price it was first sold at.
    products: Vec<(String, String, i64)>,
    account: Account,
}

/// An invoice or a credit note.
#[derive(Debug, Clone, PartialEq)]
struct Document {
    number: i64,
    at_micros: i64,
    person_id: i64,
    country: usize,
    lines: Vec<Line>,
    /// What a credit note gives back.
    refunds: Vec<Refund>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Line {
    /// Number of the product, from 1.
    product: usize,
    quantity: i64,
    price_fen: i64,
    /// Units that no credit note took back.
    left: i64,
}

/// Units of a line of an invoice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Refund {
    /// Place of the invoice.
    document: usize,
    /// Place of its line.
    line: usize,
    quantity: i64,
}

/// What the file comes to, line by line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct Account {
    rows: i64,
    bad_rows: i64,
    invoices: i64,
    credit_notes: i64,
    credit_rows: i64,
    gross_fen: i64,
    credits_fen: i64,
    /// Of the credits, what was matched to an invoice.
    refunded_fen: i64,
    /// Lines without a price that only take units out of stock.
    adjustments: i64,
    /// Where the file was cut.
    cut_at_line: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    /// How many documents are done, and the number of the last one.
    done: usize,
    last: i64,
}

/// Writes what the CSV file in `folder` has recorded, as fast as it goes or at `speed` recorded
/// seconds a second.
///
/// # Errors
/// When the file cannot be read, with the line that is wrong, or the service refuses a row.
pub(crate) async fn run(
    services: &Services,
    folder: &Path,
    speed: Option<f64>,
) -> anyhow::Result<ReplayReport> {
    let path = file_in(folder).await?;
    let table = Delimited::read(&path, &COLUMNS).await?;
    let recording =
        Recording::of(&table).with_context(|| format!("could not read {}", path.display()))?;
    let documents = &recording.documents;
    let Some(first) = documents.first() else { anyhow::bail!("the recording has no invoices") };
    let done = position(services, documents).await?;
    if done == 0 {
        write_catalogue(services, Scope::at(first.at_micros), &recording).await?;
    }
    let mut report = ReplayReport::new("UCI Online Retail", "documents");
    report.skipped = u64::try_from(done)?;
    let pace = Pace::start(documents.get(done).map_or(0, |d| d.at_micros), speed)?;
    let mut rest = &documents[done..];
    while let Some((now, later)) =
        pace.due(rest, DOCUMENTS_PER_TRANSACTION, |document| document.at_micros).await
    {
        let mut tx = services.mall().begin(services.now()).await?;
        for document in now {
            write(&mut tx, documents, document)
                .await
                .with_context(|| format!("could not write document {}", document.number))?;
            report.detail_rows += u64::try_from(document.lines.len() + document.refunds.len())?;
        }
        rest = later;
        let done = documents.len() - rest.len();
        if let Some(last) = now.last() {
            let position = Position { done, last: last.number };
            tx.set_progress(PROGRESS, &serde_json::to_string(&position)?).await?;
        }
        tx.commit().await?;
        report.written += u64::try_from(now.len())?;
    }
    services.deliver_outbox().await?;
    report.elapsed = pace.elapsed();
    report.notes = recording.account.notes();
    Ok(report)
}

/// The only CSV file of a folder.
async fn file_in(folder: &Path) -> anyhow::Result<PathBuf> {
    let context = || format!("could not read {}", folder.display());
    let mut entries = tokio::fs::read_dir(folder).await.with_context(context)?;
    let mut found = Vec::new();
    while let Some(entry) = entries.next_entry().await.with_context(context)? {
        let path = entry.path();
        if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("csv")) {
            found.push(path);
        }
    }
    anyhow::ensure!(found.len() == 1, "{} has {} CSV files, not 1", folder.display(), found.len());
    found.pop().context("a list of one has one")
}

/// How many documents are written already.
async fn position(services: &Services, documents: &[Document]) -> anyhow::Result<usize> {
    let text = services.mall().read().await?.progress(PROGRESS).await?;
    let Some(text) = text else { return Ok(0) };
    let Position { done, last } =
        serde_json::from_str(&text).with_context(|| format!("could not read \"{text}\""))?;
    let there = done.checked_sub(1).and_then(|at| documents.get(at));
    anyhow::ensure!(
        there.is_some_and(|document| document.number == last),
        "another file was replayed here up to document {last}: give the same, or one that goes on from it"
    );
    Ok(done)
}

async fn write_catalogue(
    services: &Services,
    scope: Scope,
    recording: &Recording,
) -> anyhow::Result<()> {
    let shops: Vec<NewPharmacy> = recording
        .countries
        .iter()
        .zip(1..)
        .map(|(country, number)| NewPharmacy {
            pharmacy_id: Some(UCI_IDS + number),
            // The map shows provinces; countries are spread over them.
            ..NewPharmacy::new(
                country,
                PROVINCES[usize::try_from(number).unwrap_or(0) % PROVINCES.len()],
            )
        })
        .collect();
    let products: Vec<NewProduct> = recording
        .products
        .iter()
        .zip(1..)
        .map(|((code, name, price_fen), number)| NewProduct {
            product_id: Some(UCI_IDS + number),
            ..NewProduct::new(
                if name.is_empty() { format!("stock code {code}") } else { name.clone() },
                ProductKind::Other,
                "GIFTS",
                *price_fen,
                ReturnPolicy::SevenDay,
            )
        })
        .collect();
    let mut tx = services.mall().begin(services.now()).await?;
    pharmacies::create_many(&mut tx, scope, &shops).await?;
    products::create_many(&mut tx, scope, &products).await?;
    tx.commit().await?;
    Ok(())
}

/// The order that has a line of an invoice.
fn order_id(document: &Document, line: usize) -> i64 {
    let part = i64::try_from(line / LINES_MAX).unwrap_or(0);
    ORDER_IDS + part * FURTHER_IDS + document.number
}

async fn write(
    tx: &mut WriteTransaction,
    documents: &[Document],
    document: &Document,
) -> Result<(), OperationalError> {
    let scope = Scope::at(document.at_micros);
    for (part, lines) in document.lines.chunks(LINES_MAX).enumerate() {
        let lines = lines.iter().map(|line| RecordedLine {
            product_id: product_id(line.product),
            quantity: line.quantity,
            list_amount_fen: line.quantity * line.price_fen,
            ..RecordedLine::default()
        });
        let order_id = order_id(document, part * LINES_MAX);
        let order = NewOrder {
            order_id: Some(order_id),
            ..NewOrder::new(
                document.person_id,
                UCI_IDS + 1 + i64::try_from(document.country).unwrap_or(0),
                Channel::H5,
                Pricing::Recorded(lines.collect()),
            )
        };
        orders::place(tx, scope, order).await?;
        payments::pay(tx, scope, order_id, "bank_transfer").await?;
    }
    // By order and number of the line, which several lines of a credit note may name.
    let mut by_order: BTreeMap<i64, BTreeMap<i64, i64>> = BTreeMap::new();
    for Refund { document, line, quantity } in &document.refunds {
        let number = i64::try_from(line % LINES_MAX).unwrap_or(0) + 1;
        let units = by_order.entry(order_id(&documents[*document], *line)).or_default();
        *units.entry(number).or_default() += quantity;
    }
    for (order_id, units) in by_order {
        let there = orders::lines(tx, order_id).await?;
        let lines = units.iter().map(|(number, quantity)| {
            let line = there.iter().find(|line| line.line_number == *number);
            let line = line.ok_or(OperationalError::NotFound { what: "order", id: order_id })?;
            Ok(NewRefundLine::units(line.order_line_id, *quantity))
        });
        let lines = lines.collect::<Result<Vec<_>, OperationalError>>()?;
        let reason = format!("credit note C{}", document.number);
        refunds::refund(tx, scope, order_id, &NewRefund::new(reason, lines)).await?;
    }
    Ok(())
}

fn product_id(number: usize) -> i64 {
    UCI_IDS + i64::try_from(number).unwrap_or(0)
}

impl Recording {
    fn of(table: &Delimited) -> anyhow::Result<Self> {
        let mut recording = Self::default();
        let mut places: HashMap<&str, usize> = HashMap::new();
        // Where the lines of a customer's product at a price are, oldest first.
        let mut sold: HashMap<(i64, usize, i64), Vec<(usize, usize)>> = HashMap::new();
        for row in table.rows() {
            recording.account.rows += 1;
            let invoice = row.text("InvoiceNo");
            let credit = invoice.starts_with('C');
            let (product, line) = recording.line(&row)?;
            let document = match places.get(invoice) {
                Some(document) => *document,
                None => {
                    let document = recording.document(&row, credit)?;
                    places.insert(invoice, document);
                    document
                }
            };
            let key = (recording.documents[document].person_id, product, line.price_fen);
            let amount_fen = line.quantity * line.price_fen;
            if credit {
                recording.account.credit_rows += 1;
                recording.account.credits_fen += amount_fen;
                let newest = sold.entry(key).or_default();
                recording.take_back(document, newest, -line.quantity);
            } else if line.quantity > 0 {
                recording.account.gross_fen += amount_fen;
                let lines = &mut recording.documents[document].lines;
                sold.entry(key).or_default().push((document, lines.len()));
                lines.push(line);
            } else {
                anyhow::ensure!(
                    amount_fen == 0,
                    "line {}: an invoice takes back what has a price",
                    row.line
                );
                recording.account.adjustments += 1;
            }
        }
        if let Some(cut) = table.cut {
            recording.account.bad_rows = 1;
            recording.account.cut_at_line = cut.line;
        }
        let times = recording.documents.iter().map(|document| document.at_micros);
        anyhow::ensure!(times.is_sorted(), "the documents are not in order of time");
        Ok(recording)
    }

    fn line(&mut self, row: &Row<'_>) -> anyhow::Result<(usize, Line)> {
        let code = row.text("StockCode");
        let price_fen = row.required("UnitPrice", hundredths)?;
        let quantity = row.required("Quantity", |text| text.parse::<i64>().ok())?;
        anyhow::ensure!(price_fen >= 0, "line {}: a price is below zero", row.line);
        let name = row.text("Description");
        let number = match self.products.iter().position(|(known, ..)| known == code) {
            Some(place) => place + 1,
            None => {
                self.products.push((code.to_owned(), String::new(), 0));
                self.products.len()
            }
        };
        let known = &mut self.products[number - 1];
        if known.1.is_empty() {
            name.clone_into(&mut known.1);
        }
        if known.2 == 0 {
            known.2 = price_fen;
        }
        Ok((number, Line { product: number, quantity, price_fen, left: quantity }))
    }

    /// A new document; its place.
    fn document(&mut self, row: &Row<'_>, credit: bool) -> anyhow::Result<usize> {
        let number = row.required("InvoiceNo", |text| text.trim_start_matches('C').parse().ok())?;
        let at = row.required("InvoiceDate", |text| {
            NaiveDateTime::parse_from_str(text, "%m/%d/%y %H:%M").ok()
        })?;
        let customer =
            row.value("CustomerID", |text| text.trim_end_matches(".0").parse::<i64>().ok())?;
        let country = row.text("Country");
        let country = match self.countries.iter().position(|known| known == country) {
            Some(place) => place,
            None => {
                self.countries.push(country.to_owned());
                self.countries.len() - 1
            }
        };
        if credit {
            self.account.credit_notes += 1;
        } else {
            self.account.invoices += 1;
        }
        self.documents.push(Document {
            number,
            at_micros: instant(at),
            person_id: UCI_IDS + customer.unwrap_or(ANONYMOUS_IDS + number),
            country,
            lines: Vec::new(),
            refunds: Vec::new(),
        });
        Ok(self.documents.len() - 1)
    }

    /// Takes units back from the newest lines that have some.
    fn take_back(&mut self, credit_note: usize, sold: &[(usize, usize)], mut quantity: i64) {
        for (document, line) in sold.iter().rev() {
            let from = &mut self.documents[*document].lines[*line];
            let taken = quantity.min(from.left);
            if taken > 0 {
                from.left -= taken;
                quantity -= taken;
                self.account.refunded_fen -= taken * from.price_fen;
                let refund = Refund { document: *document, line: *line, quantity: taken };
                self.documents[credit_note].refunds.push(refund);
            }
        }
    }
}

impl Account {
    fn notes(&self) -> Vec<String> {
        let yuan = |fen: i64| {
            let sign = if fen < 0 { "-" } else { "" };
            format!("{sign}{}.{:02}", fen.abs() / 100, fen.abs() % 100)
        };
        let mut notes = vec![
            format!(
                "{} rows: {} invoices of {}, {} credit notes of {}",
                self.rows,
                self.invoices,
                yuan(self.gross_fen),
                self.credit_notes,
                yuan(self.credits_fen)
            ),
            format!(
                "refunded {}; no invoice here for the other {}",
                yuan(self.refunded_fen),
                yuan(self.credits_fen - self.refunded_fen)
            ),
        ];
        if self.adjustments > 0 {
            notes.push(format!("{} rows only take units out of stock", self.adjustments));
        }
        if self.bad_rows > 0 {
            notes.push(format!("the file is cut in line {}, which is left out", self.cut_at_line));
        }
        notes
    }
}

#[cfg(test)]
mod tests;
