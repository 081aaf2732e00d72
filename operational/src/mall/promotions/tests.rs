use proptest::prelude::*;

use super::*;
use crate::database::Micros;

/// Cases and seed of the property tests below; a failing case is printed whole.
fn bounded() -> ProptestConfig {
    ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() }
}

fn line(product_id: i64, kind: ProductKind, unit_price_fen: i64, quantity: i64) -> BasketLine {
    BasketLine {
        product_id,
        variant_id: product_id * 10,
        category: if product_id % 2 == 0 { "a" } else { "b" }.to_owned(),
        kind,
        otc_class: (kind == ProductKind::Otc).then_some(OtcClass::B),
        unit_price_fen,
        quantity,
    }
}

fn offer(campaign_id: i64, kind: CampaignKind, funder: Funder) -> Offer {
    Offer {
        campaign: Campaign {
            campaign_id,
            tenant_id: 1,
            name: "c".to_owned(),
            kind,
            funder,
            pharmacy_id: None,
            category: None,
            unit_limit: None,
            unit_limit_per_person: None,
            sold_units: 0,
            starts_at: Micros(0),
            ends_at: Micros(1),
            created_at: Micros(0),
        },
        tiers: Vec::new(),
        items: Vec::new(),
        units_left: None,
    }
}

fn tier(threshold_fen: i64, discount_fen: i64, gift: Option<i64>) -> CampaignTier {
    CampaignTier {
        campaign_tier_id: threshold_fen,
        tenant_id: 1,
        campaign_id: 1,
        threshold_fen,
        discount_fen,
        gift_variant_id: gift,
        gift_quantity: gift.map(|_| 2),
    }
}

fn item(product_id: i64, unit_price_fen: Option<i64>, percent_off: Option<i64>) -> CampaignItem {
    CampaignItem {
        campaign_item_id: product_id,
        tenant_id: 1,
        campaign_id: 1,
        product_id,
        variant_id: None,
        unit_price_fen,
        percent_off,
    }
}

fn coupon(kind: CouponKind, amount: i64, threshold_fen: i64, category: Option<&str>) -> Coupon {
    let percent = kind == CouponKind::Percent;
    Coupon {
        coupon_id: 9,
        tenant_id: 1,
        name: "k".to_owned(),
        kind,
        threshold_fen,
        discount_fen: (!percent).then_some(amount),
        percent: percent.then_some(amount),
        cap_fen: None,
        category: category.map(str::to_owned),
        funder: Funder::Platform,
        claim_needed: false,
        claim_limit: None,
        claim_limit_per_person: None,
        claim_valid_days: None,
        claimed_count: 0,
        starts_at: Micros(0),
        ends_at: Micros(1),
        created_at: Micros(0),
    }
}

fn cash(basket: &BasketPrice) -> Vec<i64> {
    basket.lines.iter().map(|line| line.cash_fen).collect()
}

#[test]
fn item_prices_come_first_then_full_reductions_then_the_coupon() {
    let lines = [line(2, ProductKind::Otc, 1_000, 2), line(4, ProductKind::Device, 500, 2)];
    let mut cut = offer(1, CampaignKind::ItemPrice, Funder::Merchant);
    cut.items = vec![item(2, Some(800), None)];
    let mut reduce = offer(2, CampaignKind::FullReduction, Funder::Merchant);
    reduce.tiers = vec![tier(1_000, 100, None), tier(2_600, 260, None)];
    let offers = [cut, reduce];
    let half = coupon(CouponKind::Percent, 50, 0, None);
    let basket = price(&lines, &offers, Some(&half));
    // 2000 + 1000, cut to 1600 + 1000 = 2600: just the second tier; 260 is 160 and 100.
    assert_eq!(basket.coupon_eligible_fen, 2_340);
    assert_eq!(cash(&basket), [720, 450]);
    let first = &basket.lines[0];
    assert_eq!((first.disc_item_fen(), first.item_campaign()), (400, Some(1)));
    assert_eq!(first.of_column(DiscountColumn::FullReduction, Some(half.kind)), 160);
    assert_eq!(first.of_column(DiscountColumn::Platform, Some(half.kind)), 720);
    assert_eq!(first.of_column(DiscountColumn::CouponMerchant, Some(half.kind)), 0);
    // A tier that only the shelf prices would reach is not reached.
    let small = [line(2, ProductKind::Otc, 1_000, 1)];
    assert_eq!(cash(&price(&small, &offers, None)), [800]);
}

#[test]
fn the_better_price_counts_while_there_are_units() {
    let lines = [line(2, ProductKind::Otc, 999, 3), line(2, ProductKind::Otc, 999, 3)];
    let mut limited = offer(1, CampaignKind::ItemPrice, Funder::Platform);
    limited.items = vec![item(2, None, Some(50))];
    limited.units_left = Some(4);
    let mut open = offer(2, CampaignKind::ItemPrice, Funder::Merchant);
    open.items = vec![item(2, Some(900), None)];
    let basket = price(&lines, &[limited.clone(), open.clone()], None);
    // 50 per cent of 999 are 499; the second line does not fit into what is left.
    assert_eq!(cash(&basket), [1_500, 2_700]);
    assert_eq!(basket.lines[1].item_campaign(), Some(2));
    // A variant's own entry goes before its product's.
    open.items.push(CampaignItem { variant_id: Some(20), ..item(2, Some(10), None) });
    assert_eq!(cash(&price(&lines[..1], &[limited, open], None)), [30]);
}

#[test]
fn a_line_takes_part_in_one_full_reduction() {
    let lines = [line(2, ProductKind::Device, 1_000, 1), line(3, ProductKind::Device, 1_000, 1)];
    let mut first = offer(1, CampaignKind::FullReduction, Funder::Merchant);
    first.campaign.category = Some("a".to_owned());
    first.tiers = vec![tier(1_000, 100, None)];
    let mut second = offer(2, CampaignKind::FullReduction, Funder::Merchant);
    second.tiers = vec![tier(1_000, 300, None), tier(2_000, 900, None)];
    let basket = price(&lines, &[first, second], None);
    assert_eq!(cash(&basket), [900, 700]);
}

#[test]
fn medicines_that_may_not_be_given_away_earn_no_gift() {
    let mut campaign = offer(1, CampaignKind::FullReduction, Funder::Merchant);
    campaign.tiers = vec![tier(1_000, 0, Some(77))];
    let offers = [campaign];
    let rx = line(2, ProductKind::Rx, 5_000, 1);
    let mut class_a = line(4, ProductKind::Otc, 5_000, 1);
    class_a.otc_class = Some(OtcClass::A);
    let mut unknown = line(4, ProductKind::Otc, 5_000, 1);
    unknown.otc_class = None;
    for medicine in [rx.clone(), class_a, unknown] {
        assert_eq!(price(&[medicine], &offers, None).gifts, []);
    }
    let device = line(6, ProductKind::Device, 999, 1);
    assert_eq!(price(&[rx.clone(), device.clone()], &offers, None).gifts, []);
    let device = BasketLine { unit_price_fen: 1_000, ..device };
    let gift = Gift { campaign_id: 1, funder: Funder::Merchant, variant_id: 77, quantity: 2 };
    assert_eq!(price(&[rx, device], &offers, None).gifts, [gift]);
}

fn any_basket() -> impl Strategy<Value = (Vec<BasketLine>, Vec<Offer>, Option<Coupon>)> {
    let kind =
        prop_oneof![Just(ProductKind::Otc), Just(ProductKind::Rx), Just(ProductKind::Device)];
    let lines = prop::collection::vec(
        (1_i64..8, kind, 0_i64..100_000, 1_i64..20)
            .prop_map(|(id, kind, price, quantity)| line(id, kind, price, quantity)),
        1..8,
    );
    let funder = || prop_oneof![Just(Funder::Merchant), Just(Funder::Platform)];
    let cut = (funder(), 1_i64..8, 1_i64..=100, prop::option::of(0_i64..30)).prop_map(
        |(funder, product, percent, left)| {
            let mut offer = offer(0, CampaignKind::ItemPrice, funder);
            offer.items = vec![item(product, None, Some(percent))];
            offer.units_left = left;
            offer
        },
    );
    let reduction = (funder(), 1_i64..500_000, 0_i64..=100, any::<bool>()).prop_map(
        |(funder, threshold, percent, limited)| {
            let mut offer = offer(0, CampaignKind::FullReduction, funder);
            offer.campaign.category = limited.then(|| "a".to_owned());
            offer.tiers = vec![tier(threshold, threshold * percent / 100, Some(77))];
            offer
        },
    );
    let offers = prop::collection::vec(prop_oneof![cut, reduction], 0..6).prop_map(|mut offers| {
        for (id, offer) in (1..).zip(&mut offers) {
            offer.campaign.campaign_id = id;
        }
        offers
    });
    let coupon = prop::option::of((any::<bool>(), 1_i64..=100, any::<bool>()).prop_map(
        |(percent, amount, limited)| {
            let kind = if percent { CouponKind::Percent } else { CouponKind::FullReduction };
            let amount = if percent { amount } else { amount * 1_000 };
            coupon(kind, amount, 0, limited.then_some("a"))
        },
    ));
    (lines, offers, coupon)
}

proptest! {
    #![proptest_config(bounded())]

    /// Shares sum to each discount, no line comes to less than nothing, no line gets what it is not
    /// eligible for, and no limit is passed, whatever runs at once.
    #[test]
    fn discounts_sum_and_stay_within_their_lines((lines, offers, coupon) in any_basket()) {
        let basket = price(&lines, &offers, coupon.as_ref());
        for (line, priced) in lines.iter().zip(&basket.lines) {
            prop_assert_eq!(priced.list_amount_fen, line.unit_price_fen * line.quantity);
            let parts: i64 = priced.parts.iter().map(|part| part.amount_fen).sum();
            prop_assert_eq!(priced.list_amount_fen - parts, priced.cash_fen);
            prop_assert!(priced.cash_fen >= 0);
            prop_assert!(priced.parts.iter().all(|part| part.amount_fen > 0));
            let kind = coupon.as_ref().map(|coupon| coupon.kind);
            let columns: i64 = [
                DiscountColumn::FullReduction,
                DiscountColumn::CouponMerchant,
                DiscountColumn::Platform,
            ]
            .into_iter()
            .map(|column| priced.of_column(column, kind))
            .sum();
            prop_assert_eq!(columns + priced.disc_item_fen(), parts);
            let reductions =
                priced.parts.iter().filter(|p| p.kind == DiscountKind::FullReduction).count();
            prop_assert!(reductions <= 1);
        }
        for offer in &offers {
            let id = Some(offer.campaign.campaign_id);
            let of = |priced: &LinePrice| -> i64 {
                priced.parts.iter().filter(|p| p.campaign_id == id).map(|p| p.amount_fen).sum()
            };
            let total: i64 = basket.lines.iter().map(of).sum();
            match offer.campaign.kind {
                CampaignKind::FullReduction => {
                    prop_assert!(total == 0 || total == offer.tiers[0].discount_fen);
                    for (line, priced) in lines.iter().zip(&basket.lines) {
                        let out_of_scope = offer.campaign.category.as_ref().is_some_and(|c| *c != line.category);
                        prop_assert!(!out_of_scope || of(priced) == 0);
                    }
                }
                CampaignKind::ItemPrice => {
                    let units: i64 = lines
                        .iter()
                        .zip(&basket.lines)
                        .filter(|(_, priced)| priced.item_campaign() == id)
                        .map(|(line, _)| line.quantity)
                        .sum();
                    prop_assert!(offer.units_left.is_none_or(|left| units <= left));
                }
            }
        }
        if let Some(coupon) = &coupon {
            let total: i64 = basket
                .lines
                .iter()
                .flat_map(|line| &line.parts)
                .filter(|part| part.kind == DiscountKind::Coupon)
                .map(|part| part.amount_fen)
                .sum();
            prop_assert_eq!(total, basket.coupon_discount_fen);
            prop_assert!(total <= basket.coupon_eligible_fen);
            for (line, priced) in lines.iter().zip(&basket.lines) {
                let out = coupon.category.as_ref().is_some_and(|c| *c != line.category);
                prop_assert!(!out || priced.parts.iter().all(|p| p.kind != DiscountKind::Coupon));
            }
        }
    }

    /// Lines that no discount is for change nothing, wherever they stand.
    #[test]
    fn lines_out_of_scope_change_nothing(
        (lines, offers, coupon) in any_basket(),
        at in 0_usize..8,
        price_fen in 0_i64..100_000,
    ) {
        let mut offers = offers;
        for offer in &mut offers {
            offer.campaign.category = Some("a".to_owned());
        }
        let coupon = coupon.map(|coupon| Coupon { category: Some("a".to_owned()), ..coupon });
        let before = price(&lines, &offers, coupon.as_ref());
        let at = at.min(lines.len());
        let mut more = lines.clone();
        more.insert(at, BasketLine { category: "c".to_owned(), ..line(9, ProductKind::Device, price_fen, 3) });
        let mut after = price(&more, &offers, coupon.as_ref());
        prop_assert_eq!(after.lines.remove(at).cash_fen, price_fen * 3);
        prop_assert_eq!(after, before);
    }
}
