//! What the simulated mall sells and by which rules. Names of drugs are their common names; prices
//! and rules are made up.

use medlake_operational::{
    chronic_care::{
        consents::{NewConsent, Purpose},
        devices::{DeviceKind, NewDevice},
    },
    distribution::rules::NewRule,
    mall::{
        coupons::{CouponKind, Funder, NewCoupon},
        pharmacies::NewPharmacy,
        products::{NewProduct, ProductKind, ReturnPolicy},
        refunds::RefundCause,
    },
};
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::people::Consents;
use crate::input::recording::PROVINCES;

pub(super) const PHARMACIES: u32 = 62;

/// How long a claimed coupon may be used.
const CLAIM_DAYS: i64 = 30;
/// Far enough in the past and the future that a coupon is always valid.
const COUPON_STARTS_AT: i64 = 1_577_836_800_000_000;
const COUPON_ENDS_AT: i64 = 4_102_444_800_000_000;

#[derive(Debug)]
pub(super) struct Medicine {
    pub(super) name: &'static str,
    pub(super) kind: ProductKind,
    pub(super) category: &'static str,
    /// Code and class of the drug, and days one unit lasts, for long-term medicines.
    pub(super) drug: Option<(&'static str, &'static str, i64)>,
    pub(super) price_fen: i64,
}

const fn rx(
    name: &'static str,
    category: &'static str,
    code: &'static str,
    class: &'static str,
    days: i64,
    price_fen: i64,
) -> Medicine {
    Medicine { name, kind: ProductKind::Rx, category, drug: Some((code, class, days)), price_fen }
}

const fn other(
    name: &'static str,
    kind: ProductKind,
    category: &'static str,
    price_fen: i64,
) -> Medicine {
    Medicine { name, kind, category, drug: None, price_fen }
}

/// Codes are those of the WHO's ATC classification; a class is its first four characters or five.
pub(super) const PRODUCTS: [Medicine; 40] = [
    rx("苯磺酸氨氯地平片 5mg×28", "心脑血管", "C08CA01", "C08C", 28, 2_580),
    rx("缬沙坦胶囊 80mg×28", "心脑血管", "C09CA03", "C09C", 28, 3_960),
    rx("厄贝沙坦片 150mg×28", "心脑血管", "C09CA04", "C09C", 28, 3_280),
    rx("琥珀酸美托洛尔缓释片 47.5mg×28", "心脑血管", "C07AB02", "C07A", 28, 4_120),
    rx("马来酸依那普利片 10mg×32", "心脑血管", "C09AA02", "C09A", 16, 1_890),
    rx("吲达帕胺缓释片 1.5mg×30", "心脑血管", "C03BA11", "C03B", 30, 4_450),
    rx("阿托伐他汀钙片 20mg×28", "心脑血管", "C10AA05", "C10A", 28, 3_150),
    rx("瑞舒伐他汀钙片 10mg×28", "心脑血管", "C10AA07", "C10A", 28, 3_480),
    rx("盐酸二甲双胍缓释片 0.5g×60", "内分泌", "A10BA02", "A10BA", 30, 2_260),
    rx("格列美脲片 2mg×30", "内分泌", "A10BB12", "A10BB", 30, 2_930),
    rx("阿卡波糖片 50mg×30", "内分泌", "A10BF01", "A10BF", 10, 1_870),
    rx("磷酸西格列汀片 100mg×28", "内分泌", "A10BH01", "A10BH", 28, 12_600),
    rx("达格列净片 10mg×30", "内分泌", "A10BK01", "A10BK", 30, 9_980),
    rx("甘精胰岛素注射液 3ml", "内分泌", "A10AE04", "A10A", 15, 13_200),
    rx("左甲状腺素钠片 50μg×100", "内分泌", "H03AA01", "H03A", 50, 3_050),
    other("阿司匹林肠溶片 100mg×30", ProductKind::Otc, "心脑血管", 1_380),
    other("布洛芬缓释胶囊 0.3g×20", ProductKind::Otc, "感冒止痛", 1_990),
    other("对乙酰氨基酚片 0.5g×10", ProductKind::Otc, "感冒止痛", 680),
    other("复方感冒灵颗粒 14g×15", ProductKind::Otc, "感冒止痛", 1_650),
    other("板蓝根颗粒 10g×20", ProductKind::Otc, "感冒止痛", 1_280),
    other("连花清瘟胶囊 24粒", ProductKind::Otc, "感冒止痛", 1_480),
    other("蒙脱石散 3g×10", ProductKind::Otc, "肠胃", 1_560),
    other("奥美拉唑肠溶胶囊 20mg×14", ProductKind::Otc, "肠胃", 1_720),
    other("健胃消食片 32片", ProductKind::Otc, "肠胃", 1_190),
    other("氯雷他定片 10mg×12", ProductKind::Otc, "皮肤过敏", 1_850),
    other("炉甘石洗剂 100ml", ProductKind::Otc, "皮肤过敏", 890),
    other("莫匹罗星软膏 5g", ProductKind::Otc, "皮肤过敏", 1_590),
    other("维生素C片 100片", ProductKind::Otc, "营养补充", 980),
    other("碳酸钙D3片 60片", ProductKind::Otc, "营养补充", 4_280),
    other("复合维生素片 100片", ProductKind::Otc, "营养补充", 9_800),
    other("电子血压计 上臂式", ProductKind::Device, "医疗器械", 25_900),
    other("血糖仪套装 50片试纸", ProductKind::Device, "医疗器械", 16_800),
    other("血糖试纸 50片", ProductKind::Device, "医疗器械", 8_900),
    other("电子体温计", ProductKind::Device, "医疗器械", 2_990),
    other("医用外科口罩 50只", ProductKind::Device, "医疗器械", 1_990),
    other("制氧机 5L", ProductKind::Device, "医疗器械", 268_000),
    other("药物基因检测 心血管用药", ProductKind::GeneTest, "基因检测", 129_900),
    other("肿瘤风险基因检测", ProductKind::GeneTest, "基因检测", 199_900),
    other("医用棉签 100支", ProductKind::Other, "护理", 590),
    other("碘伏消毒液 100ml", ProductKind::Other, "护理", 690),
];

impl Medicine {
    /// Whether each pharmacy counts what it has of it; others send for what is bought.
    pub(super) fn is_counted(&self) -> bool {
        self.category == "医疗器械"
    }

    fn new_product(&self) -> NewProduct {
        // Medicines go back for their quality only; the rest within seven days.
        let medicine = matches!(self.kind, ProductKind::Rx | ProductKind::Otc);
        let return_policy =
            if medicine { ReturnPolicy::QualityOnly } else { ReturnPolicy::SevenDay };
        NewProduct {
            drug_code: self.drug.map(|(code, ..)| code.to_owned()),
            drug_class: self.drug.map(|(_, class, _)| class.to_owned()),
            days_supply_per_unit: self.drug.map(|(.., days)| days),
            tracks_stock: self.is_counted(),
            ..NewProduct::new(self.name, self.kind, self.category, self.price_fen, return_policy)
        }
    }
}

pub(super) fn products() -> Vec<NewProduct> {
    PRODUCTS.iter().map(Medicine::new_product).collect()
}

pub(super) fn coupons() -> Vec<NewCoupon> {
    COUPONS.iter().map(Coupon::new_coupon).collect()
}

pub(super) fn pharmacies() -> Vec<NewPharmacy> {
    // Populous provinces first: Zipf's law favours the first.
    let busy = ["广东", "浙江", "江苏", "山东", "四川", "河南", "上海", "北京", "湖北", "福建"];
    let mut provinces: Vec<&str> = busy.to_vec();
    provinces.extend(PROVINCES.iter().filter(|p| !busy.contains(p)));
    (0..PHARMACIES as usize)
        .map(|number| {
            let region = provinces[number % provinces.len()];
            let shop = number / provinces.len() + 1;
            NewPharmacy::new(format!("普药大药房 {region}{shop}店"), region)
        })
        .collect()
}

/// A coupon.
#[derive(Debug)]
pub(super) struct Coupon {
    pub(super) name: &'static str,
    /// What the lines in its scope must come to.
    threshold_fen: i64,
    off: Off,
    /// The only category it is for.
    category: Option<&'static str>,
    funder: Funder,
    /// Whether a buyer has to claim it first.
    pub(super) claimed: bool,
}

#[derive(Debug, Clone, Copy)]
enum Off {
    Fen(i64),
    Percent { percent: i64, cap_fen: i64 },
}

/// Prescription medicines have categories of their own, so no coupon for a category pushes them;
/// those without a category take off the whole basket.
pub(super) const COUPONS: [Coupon; 7] = [
    coupon("满59减6", 5_900, Off::Fen(600), None, Funder::Merchant),
    coupon("满99减15", 9_900, Off::Fen(1_500), None, Funder::Platform),
    coupon("满199减40", 19_900, Off::Fen(4_000), None, Funder::Platform),
    coupon("器械满200减30", 20_000, Off::Fen(3_000), Some("医疗器械"), Funder::Merchant),
    coupon(
        "营养补充九折",
        0,
        Off::Percent { percent: 10, cap_fen: 3_000 },
        Some("营养补充"),
        Funder::Merchant,
    ),
    coupon("新人九五折", 0, Off::Percent { percent: 5, cap_fen: 1_000 }, None, Funder::Platform),
    Coupon {
        claimed: true,
        ..coupon("会员满150减25", 15_000, Off::Fen(2_500), None, Funder::Platform)
    },
];

const fn coupon(
    name: &'static str,
    threshold_fen: i64,
    off: Off,
    category: Option<&'static str>,
    funder: Funder,
) -> Coupon {
    Coupon { name, threshold_fen, off, category, funder, claimed: false }
}

impl Coupon {
    /// Whether it takes something off these products and quantities.
    pub(super) fn applies(&self, lines: &[(usize, i64)]) -> bool {
        let in_scope = lines.iter().filter(|(product, _)| {
            self.category.is_none_or(|category| PRODUCTS[*product].category == category)
        });
        let amount: i64 =
            in_scope.map(|(product, quantity)| PRODUCTS[*product].price_fen * quantity).sum();
        amount > 0 && amount >= self.threshold_fen
    }

    pub(super) fn new_coupon(&self) -> NewCoupon {
        let (discount_fen, percent, cap_fen) = match self.off {
            Off::Fen(off) => (Some(off), None, None),
            Off::Percent { percent, cap_fen } => (None, Some(percent), Some(cap_fen)),
        };
        NewCoupon {
            coupon_id: None,
            name: self.name.to_owned(),
            kind: if percent.is_some() { CouponKind::Percent } else { CouponKind::FullReduction },
            threshold_fen: self.threshold_fen,
            discount_fen,
            percent,
            cap_fen,
            category: self.category.map(str::to_owned),
            funder: self.funder,
            claim_needed: self.claimed,
            claim_limit: None,
            claim_limit_per_person: None,
            claim_valid_days: self.claimed.then_some(CLAIM_DAYS),
            starts_at: COUPON_STARTS_AT,
            ends_at: COUPON_ENDS_AT,
        }
    }
}

/// The products, the best sellers first: spread over the kinds as the seed says.
pub(super) fn by_popularity(seed: u64) -> Vec<usize> {
    let mut random = StdRng::seed_from_u64(seed ^ 0x005e_11e5);
    let mut places: Vec<usize> = (0..PRODUCTS.len()).collect();
    places.shuffle(&mut random);
    places
}

/// Where the links of distributors lead.
pub(super) const SHARED_PAGE: &str = "/health";

pub(super) fn distributor_name(member: usize) -> String {
    format!("分销 {:04}", member + 1)
}

pub(super) fn reason(cause: RefundCause) -> &'static str {
    match cause {
        RefundCause::NoReason => "changed mind",
        RefundCause::Quality => "quality",
        RefundCause::WrongItem => "wrong item",
        RefundCause::NotDelivered => "did not come",
    }
}

pub(super) fn patient_name(number: i64) -> String {
    format!("顾客 {number:05}")
}

/// A device at home of the patient of this number.
pub(super) fn device(kind: DeviceKind, number: i64) -> NewDevice {
    let model = match kind {
        DeviceKind::BloodPressureMonitor => "simulated monitor",
        DeviceKind::GlucoseMeter => "simulated meter",
    };
    NewDevice { kind, model: model.to_owned(), serial: format!("S{number:08}"), valid_to: None }
}

/// How many units of a counted product a pharmacy has when it opens; what is shipped comes in again.
pub(super) fn stock_units(people: usize) -> i64 {
    40 + i64::try_from(people / 500).unwrap_or(0)
}

/// What a patient agrees to: care always, the rest or not.
pub(super) fn consents(given: Consents) -> Vec<NewConsent> {
    let consent = |purpose| NewConsent {
        purpose,
        sensitive_data: purpose == Purpose::Care,
        text_version: "simulated-1".to_owned(),
        given_at: None,
    };
    let mut consents = vec![consent(Purpose::Care)];
    consents.extend(given.analytics.then(|| consent(Purpose::Analytics)));
    consents.extend(given.marketing.then(|| consent(Purpose::Marketing)));
    consents
}

pub(super) fn phone(number: i64) -> String {
    format!("199{number:08}")
}

/// Commission by level, of products with these ids: a rate for all, none for a product, a fixed
/// amount for another.
pub(super) fn rules(product_ids: &[i64]) -> Vec<NewRule> {
    let rate = |product_id, level, rate_bp| NewRule {
        product_id,
        level,
        rate_bp: Some(rate_bp),
        fixed_fen: None,
    };
    let fixed = |product_id, level, fixed_fen| NewRule {
        product_id,
        level,
        rate_bp: None,
        fixed_fen: Some(fixed_fen),
    };
    let mut rules = vec![rate(None, 1, 500), rate(None, 2, 200)];
    for (product, id) in PRODUCTS.iter().zip(product_ids) {
        match product.kind {
            // Prescriptions are not to be pushed: a fixed amount of 0 means none.
            ProductKind::Rx => rules.extend([1, 2].map(|level| fixed(Some(*id), level, 0))),
            ProductKind::GeneTest => {
                rules.extend([rate(Some(*id), 1, 1_200), fixed(Some(*id), 2, 2_000)]);
            }
            _ => {}
        }
    }
    rules
}

/// Which of these products, and how many units, are sold on prescription only.
pub(super) fn prescribed(lines: &[(usize, i64)]) -> Vec<(usize, i64)> {
    lines
        .iter()
        .filter(|(product, _)| PRODUCTS[*product].kind == ProductKind::Rx)
        .copied()
        .collect()
}
