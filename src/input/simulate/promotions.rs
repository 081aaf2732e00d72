//! What the simulated mall offers when: a full reduction at each weekend, and medicines for less on the
//! evening of each Wednesday. It follows from the calendar, so a history and the traffic after it have
//! the same.

use medlake_operational::mall::{
    campaigns::{CampaignKind, NewCampaign, NewItem, NewTier},
    coupons::Funder,
    products::ProductKind,
};

use super::{HOUR_MICROS, catalogue::PRODUCTS, date, day_of, midnight, weekday};

/// Days from a Monday.
const WEDNESDAY: i64 = 2;
const SATURDAY: i64 = 5;
const EVENING_FROM_HOUR: i64 = 19;
const EVENING_TO_HOUR: i64 = 23;

/// A campaign of the mall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Promotion {
    kind: CampaignKind,
    pub(super) starts_at: i64,
    pub(super) ends_at: i64,
}

impl Promotion {
    /// The one that begins on the day of this time in Asia/Shanghai, or goes on through it.
    pub(super) fn of_day(at: i64) -> Option<Self> {
        let day = day_of(at);
        match weekday(day) {
            WEDNESDAY => Some(Self {
                kind: CampaignKind::ItemPrice,
                starts_at: midnight(day) + EVENING_FROM_HOUR * HOUR_MICROS,
                ends_at: midnight(day) + EVENING_TO_HOUR * HOUR_MICROS,
            }),
            weekday @ SATURDAY.. => {
                let saturday = day - (weekday - SATURDAY);
                let (starts_at, ends_at) = (midnight(saturday), midnight(saturday + 2));
                Some(Self { kind: CampaignKind::FullReduction, starts_at, ends_at })
            }
            _ => None,
        }
    }

    /// The one that is on at a time.
    pub(super) fn at(at: i64) -> Option<Self> {
        Self::of_day(at).filter(|promotion| (promotion.starts_at..promotion.ends_at).contains(&at))
    }

    /// What visits that it brings say.
    pub(super) fn code(self) -> &'static str {
        match self.kind {
            CampaignKind::FullReduction => "weekend",
            CampaignKind::ItemPrice => "wednesday",
        }
    }

    /// Unique to it.
    pub(super) fn name(self) -> String {
        let day = date(self.starts_at);
        match self.kind {
            CampaignKind::FullReduction => format!("周末满减 {day}"),
            CampaignKind::ItemPrice => format!("周三夜场 {day}"),
        }
    }

    /// The campaign, of products with these ids. Nothing is taken off what is sold on prescription.
    pub(super) fn campaign(self, products: &[i64]) -> NewCampaign {
        let item = |product_id: &i64, percent_off| NewItem {
            product_id: *product_id,
            variant_id: None,
            unit_price_fen: None,
            percent_off,
        };
        let of_kinds = |wanted: &[ProductKind], percent_off: Option<i64>| -> Vec<NewItem> {
            let of =
                PRODUCTS.iter().zip(products).filter(|(product, _)| wanted.contains(&product.kind));
            of.map(|(_, id)| item(id, percent_off)).collect()
        };
        let tier = |threshold_fen, discount_fen| NewTier {
            threshold_fen,
            discount_fen,
            gift_variant_id: None,
            gift_quantity: None,
        };
        let (tiers, items, limit) = match self.kind {
            CampaignKind::FullReduction => {
                let kinds = [ProductKind::Otc, ProductKind::Device, ProductKind::Other];
                (vec![tier(10_000, 1_000), tier(30_000, 4_000)], of_kinds(&kinds, None), None)
            }
            CampaignKind::ItemPrice => {
                (Vec::new(), of_kinds(&[ProductKind::Otc], Some(15)), Some(10))
            }
        };
        NewCampaign {
            name: self.name(),
            kind: self.kind,
            funder: match self.kind {
                CampaignKind::FullReduction => Funder::Platform,
                CampaignKind::ItemPrice => Funder::Merchant,
            },
            pharmacy_id: None,
            category: None,
            unit_limit: None,
            unit_limit_per_person: limit,
            starts_at: self.starts_at,
            ends_at: self.ends_at,
            tiers,
            items,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-05-25, a Monday, 00:00 in Asia/Shanghai.
    const MONDAY: i64 = 1_779_638_400_000_000;

    #[test]
    fn promotions_are_on_at_weekends_and_on_wednesday_evenings() {
        let on = |hour: i64| Promotion::at(MONDAY + hour * HOUR_MICROS).map(Promotion::name);
        let hours: Vec<i64> = (0..168).filter(|hour| on(*hour).is_some()).collect();
        let expected: Vec<i64> = (67..71).chain(120..168).collect();
        assert_eq!(hours, expected);
        assert_eq!(on(70).unwrap(), "周三夜场 2026-05-27");
        // Both days of a weekend have the same one.
        assert_eq!(on(120).unwrap(), "周末满减 2026-05-30");
        assert_eq!(on(167), on(120));
        let of_day = Promotion::of_day(MONDAY + 48 * HOUR_MICROS).unwrap();
        assert_eq!(of_day.starts_at, MONDAY + 67 * HOUR_MICROS);
    }
}
