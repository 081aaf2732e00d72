//! Templates: a heading and a text with places for parameters, `{{name}}`. Those of the platform are
//! here; a tenant may write its own of the same name.

use std::collections::BTreeMap;

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing,
};
use serde::Deserialize;
use utoipa::{OpenApi, ToSchema};

use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    database::{Connection, Micros, insert_one, record, sql},
    http::{Answer, Command, ErrorBody, Failure, List, Page, Params},
    names::is_name,
};

const TITLE_LENGTH_MAX: usize = 200;
const BODY_LENGTH_MAX: usize = 2_000;

/// A template that comes with the platform.
struct Stock {
    name: &'static str,
    title: &'static str,
    body: &'static str,
    /// What is given to it, so that a template of a tenant in its place may name it.
    given: &'static [&'static str],
}

const ALERT: &[&str] = &["title", "severity", "alert_id", "subject"];
const TREE: &[&str] = &["root_id", "depth", "people", "subject"];

const STOCK: &[Stock] = &[
    Stock {
        name: "medication_reminder",
        title: "用药提醒",
        body: "现在是 {{scheduled_at}} 的服药时间，服药后请确认。",
        given: &["scheduled_at"],
    },
    Stock {
        name: "care_reminder",
        title: "随访提醒：{{step}}",
        body: "您的随访「{{step}}」请于 {{due_on}} 前完成。",
        given: &["step", "due_on"],
    },
    Stock {
        name: "care_overdue_reminder",
        title: "随访已逾期：{{step}}",
        body: "您的随访「{{step}}」应于 {{due_on}} 前完成，请尽快联系我们。",
        given: &["step", "due_on"],
    },
    alert("care_reading", "测量值预警（{{severity}}）"),
    alert("care_overdue", "随访逾期（{{severity}}）"),
    alert("care_lost", "患者失访（{{severity}}）"),
    alert("care_step", "随访预警（{{severity}}）"),
    alert("care_doses", "漏服预警（{{severity}}）"),
    alert("care_device", "设备预警（{{severity}}）"),
    Stock {
        name: "tree_depth",
        title: "分销层级预警",
        body: "{{subject}} 的分销关系已达 {{depth}} 层，共 {{people}} 人，请核查。",
        given: TREE,
    },
    Stock {
        name: "tree_people",
        title: "分销人数预警",
        body: "{{subject}} 的分销关系已达 {{people}} 人，共 {{depth}} 层，请核查。",
        given: TREE,
    },
    Stock {
        name: "order_shipped",
        title: "订单已发货",
        body: "您的订单 {{order_id}} 已发货。",
        given: &["order_id"],
    },
];

/// What the staff are told of an alert of chronic care.
const fn alert(name: &'static str, title: &'static str) -> Stock {
    Stock {
        name, title, body: "{{subject}}：{{title}}（预警编号 {{alert_id}}）", given: ALERT
    }
}

fn stock(name: &str) -> Option<&'static Stock> {
    STOCK.iter().find(|stock| stock.name == name)
}

record! {
    /// A template that a tenant wrote.
    pub struct NotificationTemplate in "notification_template" {
        /// Its id.
        pub template_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// Its name.
        pub name: String,
        /// The heading, with places for parameters.
        pub title: String,
        /// The text, with places for parameters.
        pub body: String,
        /// When it was changed last, in microseconds since 1970 (UTC).
        pub updated_at: Micros,
        /// Counts changes; a change names the one it was decided on.
        pub version: i64,
    }
}

/// What a template becomes.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewNotificationTemplate {
    /// The version this was decided on; 0 when the tenant has none of this name.
    pub version: i64,
    /// The heading, such as `您的订单 {{order_id}}`.
    #[schema(min_length = 1, max_length = 200)]
    pub title: String,
    /// The text.
    #[schema(min_length = 1, max_length = 2000)]
    pub body: String,
}

/// Heading and text of a template with its parameters. One that nobody wrote tells its name and the
/// parameters.
pub(super) async fn rendered(
    on: &mut Connection,
    tenant_id: i64,
    name: &str,
    parameters: &BTreeMap<String, String>,
) -> Result<(String, String), OperationalError> {
    let own: Option<(String, String)> = sql("select title, body from notification_template
         where tenant_id = ?1 and name = ?2")
    .bind(tenant_id)
    .bind(name)
    .first(on)
    .await?;
    let default = || stock(name).map(|stock| (stock.title.to_owned(), stock.body.to_owned()));
    let (title, body) = match own.or_else(default) {
        Some((title, body)) => (filled(&title, parameters)?, filled(&body, parameters)?),
        None => {
            let told: Vec<String> = parameters.iter().map(|(n, v)| format!("{n}: {v}")).collect();
            (name.to_owned(), told.join("\n"))
        }
    };
    // Bounded, whatever the parameters are.
    let cut = |text: String, most| text.chars().take(most).collect::<String>();
    Ok((cut(title, TITLE_LENGTH_MAX), cut(body, BODY_LENGTH_MAX)))
}

/// The parameters that a text names.
fn places(text: &str) -> impl Iterator<Item = &str> {
    text.split("{{").skip(1).filter_map(|rest| rest.split_once("}}")).map(|(name, _)| name.trim())
}

/// A text with its parameters in their places.
fn filled(text: &str, parameters: &BTreeMap<String, String>) -> Result<String, OperationalError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((name, after)) = after.split_once("}}") else {
            return Err(OperationalError::invalid("a place of the template has no end: \"}}\""));
        };
        let Some(value) = parameters.get(name.trim()) else {
            return Err(OperationalError::invalid(format!(
                "the template names the parameter \"{}\", which is not given",
                name.trim()
            )));
        };
        out.push_str(before);
        out.push_str(value);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

async fn change(
    tx: &mut WriteTransaction,
    scope: Scope,
    name: &str,
    new: &NewNotificationTemplate,
) -> Result<NotificationTemplate, OperationalError> {
    if !is_name(name, 64) {
        return Err(OperationalError::invalid(
            "the name must be 1 to 64 lower-case letters, digits and underscores",
        ));
    }
    let fits = |text: &str, most| !text.trim().is_empty() && text.chars().count() <= most;
    if !fits(&new.title, TITLE_LENGTH_MAX) || !fits(&new.body, BODY_LENGTH_MAX) {
        return Err(OperationalError::invalid(
            "title must have 1 to 200 characters, body 1 to 2000",
        ));
    }
    for text in [&new.title, &new.body] {
        if text.matches("{{").count() != text.matches("}}").count() {
            return Err(OperationalError::invalid("a place is written {{name}}"));
        }
        // What is told by itself must not be held up by a name that nobody gives.
        let Some(stock) = stock(name) else { continue };
        let wrong = places(text).find(|place| !stock.given.contains(place));
        if let Some(place) = wrong {
            return Err(OperationalError::invalid(format!(
                "the template names \"{place}\"; what is given to \"{name}\" is {}",
                stock.given.join(", ")
            )));
        }
    }
    let there: Option<NotificationTemplate> = sql("select * from notification_template
         where tenant_id = ?1 and name = ?2 for update")
    .bind(scope.tenant_id)
    .bind(name)
    .first(tx)
    .await?;
    let version = there.as_ref().map_or(0, |template| template.version);
    if version != new.version {
        return Err(OperationalError::conflict(format!(
            "template \"{name}\" is at version {version}, not {}",
            new.version
        )));
    }
    let template = NotificationTemplate {
        template_id: match &there {
            Some(template) => template.template_id,
            None => tx.id::<NotificationTemplate>(None).await?,
        },
        tenant_id: scope.tenant_id,
        name: name.to_owned(),
        title: new.title.clone(),
        body: new.body.clone(),
        updated_at: Micros(scope.now),
        version: version + 1,
    };
    if there.is_none() {
        insert_one(tx, &template)
            .await
            .map_err(|error| error.or_taken(|| format!("template \"{name}\" was just written")))?;
        return Ok(template);
    }
    sql("update notification_template set title = ?2, body = ?3, updated_at = ?4, version = ?5
         where template_id = ?1")
    .bind(template.template_id)
    .bind(&template.title)
    .bind(&template.body)
    .bind(template.updated_at)
    .bind(template.version)
    .execute(tx)
    .await?;
    Ok(template)
}

pub(super) fn router() -> Router<Services> {
    Router::new()
        .route("/notifications/templates", routing::get(get_all))
        .route("/notifications/templates/{name}", routing::put(put))
}

pub(super) fn openapi() -> utoipa::openapi::OpenApi {
    #[derive(OpenApi)]
    #[openapi(paths(get_all, put))]
    struct Description;
    Description::openapi()
}

/// The templates that the tenant wrote.
#[utoipa::path(get, path = "/notifications/templates", tag = "notifications", params(Page),
    responses((status = 200, body = List<NotificationTemplate>), (status = "default", body = ErrorBody)))]
async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Params(page): Params<Page>,
) -> Result<Json<List<NotificationTemplate>>, Failure> {
    let items = sql("select * from notification_template where tenant_id = ?1 and template_id > ?2
         order by template_id limit ?3")
    .bind(scope.tenant_id)
    .bind(page.after_id)
    .bind(page.limit.rows())
    .all(&mut *services.support().read().await?)
    .await?;
    Ok(Json(List { items }))
}

/// Write a template, or change it.
#[utoipa::path(put, path = "/notifications/templates/{name}", tag = "notifications",
    request_body = NewNotificationTemplate,
    params(("name" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = NotificationTemplate), (status = "default", body = ErrorBody)))]
async fn put(
    State(services): State<Services>,
    Path(name): Path<String>,
    command: Command<NewNotificationTemplate>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.support(), services.now(), StatusCode::OK, move |tx, scope, new| {
            let name = name.clone();
            Box::pin(async move { change(tx, scope, &name, new).await })
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_takes_its_parameter_and_nothing_else() {
        let parameters: BTreeMap<String, String> =
            [("a", "{{b}}"), ("b", "2")].map(|(n, v)| (n.to_owned(), v.to_owned())).into();
        let fill = |text| filled(text, &parameters).map_err(|error| error.to_string());
        assert_eq!(
            fill("x {{ a }} {{b}}!").unwrap(),
            "x {{b}} 2!",
            "what is put in is not read again"
        );
        assert!(fill("{{c}}").unwrap_err().contains("\"c\""));
        assert!(fill("{{a").unwrap_err().contains("no end"));
        assert_eq!(fill("").unwrap(), "");
    }

    #[test]
    fn the_platforms_own_are_well_formed() {
        for Stock { name, title, body, given } in STOCK {
            let given = given.iter().map(|name| ((*name).to_owned(), "x".to_owned())).collect();
            for text in [title, body] {
                assert!(!filled(text, &given).unwrap().contains(['{', '}']), "{name}");
            }
        }
    }
}
