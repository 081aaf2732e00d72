//! What the simulated mall sells and by which rules. Names of drugs are their common names; prices
//! and rules are made up.

use serde_json::{Value, json};

/// Far enough in the past and the future that a coupon is always valid.
const COUPON_STARTS_AT: i64 = 1_577_836_800_000_000;
const COUPON_ENDS_AT: i64 = 4_102_444_800_000_000;

pub(super) struct Medicine {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
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
    Medicine { name, kind: "rx", category, drug: Some((code, class, days)), price_fen }
}

const fn other(
    name: &'static str,
    kind: &'static str,
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
    other("阿司匹林肠溶片 100mg×30", "otc", "心脑血管", 1_380),
    other("布洛芬缓释胶囊 0.3g×20", "otc", "感冒止痛", 1_990),
    other("对乙酰氨基酚片 0.5g×10", "otc", "感冒止痛", 680),
    other("复方感冒灵颗粒 14g×15", "otc", "感冒止痛", 1_650),
    other("板蓝根颗粒 10g×20", "otc", "感冒止痛", 1_280),
    other("连花清瘟胶囊 24粒", "otc", "感冒止痛", 1_480),
    other("蒙脱石散 3g×10", "otc", "肠胃", 1_560),
    other("奥美拉唑肠溶胶囊 20mg×14", "otc", "肠胃", 1_720),
    other("健胃消食片 32片", "otc", "肠胃", 1_190),
    other("氯雷他定片 10mg×12", "otc", "皮肤过敏", 1_850),
    other("炉甘石洗剂 100ml", "otc", "皮肤过敏", 890),
    other("莫匹罗星软膏 5g", "otc", "皮肤过敏", 1_590),
    other("维生素C片 100片", "otc", "营养补充", 980),
    other("碳酸钙D3片 60片", "otc", "营养补充", 4_280),
    other("复合维生素片 100片", "otc", "营养补充", 9_800),
    other("电子血压计 上臂式", "device", "医疗器械", 25_900),
    other("血糖仪套装 50片试纸", "device", "医疗器械", 16_800),
    other("血糖试纸 50片", "device", "医疗器械", 8_900),
    other("电子体温计", "device", "医疗器械", 2_990),
    other("医用外科口罩 50只", "device", "医疗器械", 1_990),
    other("制氧机 5L", "device", "医疗器械", 268_000),
    other("药物基因检测 心血管用药", "gene_test", "基因检测", 129_900),
    other("肿瘤风险基因检测", "gene_test", "基因检测", 199_900),
    other("医用棉签 100支", "other", "护理", 590),
    other("碘伏消毒液 100ml", "other", "护理", 690),
];

impl Medicine {
    pub(super) fn body(&self) -> Value {
        // Medicines go back for their quality only; the rest within seven days.
        let medicine = matches!(self.kind, "rx" | "otc");
        json!({
            "name": self.name,
            "kind": self.kind,
            "category": self.category,
            "drug_code": self.drug.map(|(code, ..)| code),
            "drug_class": self.drug.map(|(_, class, _)| class),
            "days_supply_per_unit": self.drug.map(|(.., days)| days),
            "unit_price_fen": self.price_fen,
            "return_policy": if medicine { "quality_only" } else { "seven_day" },
        })
    }
}

/// Coupons, each with its `name`. Prescription medicines have categories of their own, so no coupon
/// for a category pushes them; those without a category take off the whole basket.
pub(super) fn coupons() -> Vec<Value> {
    let full = |name: &str, threshold: i64, off: i64, category: Option<&str>, funder: &str| {
        json!({
            "name": name, "kind": "full_reduction", "threshold_fen": threshold,
            "discount_fen": off, "category": category, "funder": funder,
            "starts_at": COUPON_STARTS_AT, "ends_at": COUPON_ENDS_AT,
        })
    };
    let percent = |name: &str, percent: i64, cap: i64, category: Option<&str>, funder: &str| {
        json!({
            "name": name, "kind": "percent", "threshold_fen": 0, "percent": percent,
            "cap_fen": cap, "category": category, "funder": funder,
            "starts_at": COUPON_STARTS_AT, "ends_at": COUPON_ENDS_AT,
        })
    };
    vec![
        full("满59减6", 5_900, 600, None, "merchant"),
        full("满99减15", 9_900, 1_500, None, "platform"),
        full("满199减40", 19_900, 4_000, None, "platform"),
        full("器械满200减30", 20_000, 3_000, Some("医疗器械"), "merchant"),
        percent("营养补充九折", 10, 3_000, Some("营养补充"), "merchant"),
        percent("新人九五折", 5, 1_000, None, "platform"),
    ]
}

/// Commission by level: a rate for all, none for a product, a fixed amount for another.
pub(super) fn rules(product_id: impl Fn(&str) -> Option<i64>) -> Vec<Value> {
    let mut rules =
        vec![json!({ "level": 1, "rate_bp": 500 }), json!({ "level": 2, "rate_bp": 200 })];
    for product in &PRODUCTS {
        let Some(product_id) = product_id(product.name) else { continue };
        match product.kind {
            "rx" => {
                // Prescriptions are not to be pushed: a fixed amount of 0 means none.
                rules.push(json!({ "product_id": product_id, "level": 1, "fixed_fen": 0 }));
                rules.push(json!({ "product_id": product_id, "level": 2, "fixed_fen": 0 }));
            }
            "gene_test" => {
                rules.push(json!({ "product_id": product_id, "level": 1, "rate_bp": 1_200 }));
                rules.push(json!({ "product_id": product_id, "level": 2, "fixed_fen": 2_000 }));
            }
            _ => {}
        }
    }
    rules
}
