use std::{collections::HashMap, sync::Arc};

use chrono::{Datelike, Months};
use medlake_operational::{
    Connection, OperationalError, Scope, Services, WriteTransaction,
    distribution::{
        commissions,
        distributors::{self, NewDistributor},
        payouts::{self, NewChannelRecord, NewPayout, Outcome},
        rules,
        settlements::{self, NewSettlements},
        share_links::{self, NewShareLink},
        touches::{self, Door, NewTouch},
    },
};

use super::{Noted, Part};
use crate::input::simulate::{
    behaviour::{Act, Model, Step},
    catalogue, date,
};

/// The day of a month at whose end the month before is settled and paid out.
const SETTLED_ON: u32 = 3;
const CHANNEL: &str = "wechat_transfer";

/// The distribution programme's part.
pub(super) struct Distribution {
    model: Arc<Model>,
    /// The code of each distributor's link.
    codes: HashMap<usize, String>,
}

/// Distributors come in the order of their numbers.
pub(in crate::input::simulate) fn id_of(member: usize) -> i64 {
    i64::try_from(member).unwrap_or(0) + 1
}

impl Distribution {
    /// Makes the rules of the commission when there are none.
    pub(super) async fn open(
        services: &Services,
        model: &Arc<Model>,
        products: &[i64],
        noted: Noted,
    ) -> anyhow::Result<Self> {
        let mut tx = services.distribution().begin(services.now()).await?;
        if tx.progress(super::NAME).await?.is_none() {
            for rule in catalogue::rules(products) {
                rules::create(&mut tx, Scope::at(noted.from), rule).await?;
            }
            // From here on they are there.
            tx.set_progress(super::NAME, &serde_json::to_string(&noted)?).await?;
        }
        tx.commit().await?;
        Ok(Self { model: Arc::clone(model), codes: HashMap::new() })
    }

    /// The code of a distributor's link, looked up once after a start.
    async fn code(
        &mut self,
        on: &mut Connection,
        member: usize,
    ) -> Result<String, OperationalError> {
        if let Some(code) = self.codes.get(&member) {
            return Ok(code.clone());
        }
        let id = id_of(member);
        let links = share_links::of_distributor(on, Scope::DEFAULT_TENANT, id).await?;
        let unknown = OperationalError::NotFound { what: "distributor", id };
        let link = links.into_iter().next().ok_or(unknown)?;
        self.codes.insert(member, link.code.clone());
        Ok(link.code)
    }

    /// Pays out what a month came to.
    async fn settle(
        tx: &mut WriteTransaction,
        scope: Scope,
        period: String,
    ) -> Result<(), OperationalError> {
        let mut new = NewSettlements { period, after_id: 0 };
        loop {
            let settled = settlements::settle(tx, scope, &new).await?;
            for settlement in settled.items {
                let payout = NewPayout { channel: CHANNEL.to_owned() };
                let payout = payouts::begin(tx, scope, settlement.settlement_id, &payout).await?;
                let paid = NewChannelRecord {
                    channel: CHANNEL.to_owned(),
                    trade_number: format!("simulated-{}", payout.payout_number),
                    payout_number: payout.payout_number,
                    amount_fen: payout.net_fen,
                    outcome: Outcome::Succeeded,
                    occurred_at: scope.now,
                };
                payouts::record(tx, scope, &paid).await?;
            }
            match settled.next_after_id {
                Some(after_id) => new.after_id = after_id,
                None => return Ok(()),
            }
        }
    }
}

impl Part for Distribution {
    async fn act(
        &mut self,
        tx: &mut WriteTransaction,
        scope: Scope,
        step: &Step,
    ) -> Result<bool, OperationalError> {
        let person_id = self.model.population.people[step.person].person_id;
        match &step.act {
            Act::Join { member } => {
                let traits = &self.model.population.members[*member];
                let new = NewDistributor {
                    distributor_id: Some(id_of(*member)),
                    person_id,
                    parent_id: traits.parent.map(id_of),
                    kind: traits.kind,
                    name: catalogue::distributor_name(*member),
                    tax_regime: None,
                };
                distributors::create(tx, scope, new).await?;
                let link = NewShareLink {
                    distributor_id: id_of(*member),
                    product_id: None,
                    page: Some(catalogue::SHARED_PAGE.to_owned()),
                    campaign: None,
                };
                let made = share_links::create(tx, scope, link).await?;
                self.codes.insert(*member, made.link.code);
            }
            Act::Follow { member } => {
                let new = NewTouch {
                    code: self.code(tx, *member).await?,
                    person_id,
                    door: if step.at % 4 == 0 { Door::QrCode } else { Door::Link },
                    visitor: None,
                    registered: false,
                };
                touches::touch(tx, scope, &new).await?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    async fn end_of_day(
        &mut self,
        tx: &mut WriteTransaction,
        scope: Scope,
    ) -> Result<(), OperationalError> {
        while commissions::release_due(tx, scope).await? > 0 {}
        // The day that ends now.
        let today = date(scope.now - 1);
        if today.day() == SETTLED_ON {
            let month = today - Months::new(1);
            Self::settle(tx, scope, month.format("%Y-%m").to_string()).await?;
        }
        Ok(())
    }
}
