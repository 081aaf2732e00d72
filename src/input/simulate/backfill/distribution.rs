use std::sync::Arc;

use medlake_operational::{
    OperationalError, Scope, Services, WriteTransaction,
    distribution::{
        bindings::{self, BindingCause, NewBinding},
        distributors::{self, NewDistributor},
        rules,
    },
};

use super::Part;
use crate::input::simulate::{
    behaviour::{Act, Model, Step},
    catalogue,
};

/// The distribution programme's part.
pub(super) struct Distribution {
    model: Arc<Model>,
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
        from: i64,
    ) -> Result<Self, OperationalError> {
        let mut tx = services.distribution().begin(services.now()).await?;
        if tx.progress(super::NAME).await?.is_none() {
            for rule in catalogue::rules(products) {
                rules::create(&mut tx, Scope::at(from), rule).await?;
            }
        }
        tx.commit().await?;
        Ok(Self { model: Arc::clone(model) })
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
            }
            Act::Bind { member } => {
                let new = NewBinding {
                    person_id,
                    distributor_id: id_of(*member),
                    cause: BindingCause::Scan,
                };
                bindings::bind(tx, scope, new).await?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    async fn end_of_day(
        &mut self,
        _: &mut WriteTransaction,
        _: Scope,
    ) -> Result<(), OperationalError> {
        Ok(())
    }
}
