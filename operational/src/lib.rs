//! The operational services, where rows are born: the mall, the distribution programme and the
//! chronic-care service, each on a database of its own; and what they share: who there is and what they
//! may do, notifications, files and settings.
//!
//! Every write is one transaction that also holds its idempotency key, what other services must
//! hear of it (the outbox) and, by triggers, each row change with its images before and after
//! (`cdc_change`). An HTTP handler is a thin shell over a plain function that takes the transaction
//! and a [`Scope`] (tenant, time and who acts), so a replay of recorded data runs the same code with recorded
//! times and many orders in one transaction.
//!
//! This crate does not know who reads the change tables, nor anything of Arrow, lakes or marts. It
//! reads no clock: [`Services::open`] is given one.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use medlake_operational::{Scope, Services, Storage, mall::pharmacies::{self, NewPharmacy}};
//!
//! let folder = tempfile::tempdir()?;
//! let storage = Storage::files(folder.path());
//! let services = Services::open(&storage, Arc::new(|| 1_795_000_000_000_000), Arc::new(|| ())).await?;
//! let mut tx = services.mall().begin(services.now()).await?;
//! let pharmacy = NewPharmacy::new("西湖店", "浙江");
//! let pharmacy = pharmacies::create(&mut tx, Scope::at(services.now()), pharmacy).await?;
//! tx.commit().await?;
//! assert_eq!(pharmacy.pharmacy_id, 1);
//! # Ok(()) }
//! ```

pub mod calendar;
mod capture;
pub mod chronic_care;
pub mod configuration;
mod database;
pub mod distribution;
mod error;
mod events;
pub mod files;
mod http;
pub mod identifiers;
pub mod identity;
pub mod mall;
mod migrate;
mod names;
pub mod notification;
mod outbox;
mod scope;
mod services;
mod support;
mod timers;

pub use database::{
    Capture, Connection, Database, Durability, Micros, OnCommit, RECORDED_IDS, ReadTransaction,
    Storage, WriteTransaction,
};
pub use error::OperationalError;
pub use events::{
    AlertRaised, NotificationRequested, OrderClosed, OrderPaid, OrderReceived, OrderRefunded,
    PaidLine, ReceivedLine, RefundedLine,
};
pub use http::{Limit, Page, openapi};
pub use identifiers::master_keys::MasterKeys;
pub use migrate::{Migration, Migrations};
pub use outbox::Delivered;
pub use scope::{Actor, Scope};
pub use services::{Access, Clock, Measured, Options, Services};
