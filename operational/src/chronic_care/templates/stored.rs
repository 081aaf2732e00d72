//! Templates as they are stored, and their addresses.

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Problem, SHIPPED, Template, shipped};
use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    chronic_care::patients::Condition,
    database::{Connection, Micros, insert_one, record, sql},
    http::{Answer, Command, ErrorBody, Failure, Id, Page, Params},
};

/// A template to be stored.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTemplate {
    /// The template, in YAML or JSON.
    #[schema(max_length = 200_000)]
    pub source: String,
}

record! {
    /// A version of a template.
    pub struct CareTemplate in "care_template" {
        /// Its id.
        pub template_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The name of the template.
        pub name: String,
        /// The version: 1, 2, 3 and so on.
        pub version: i64,
        /// What people know it by.
        pub title: String,
        /// What it is for.
        pub condition: Condition,
        /// The text.
        pub source: String,
        /// Microseconds since 1970 (UTC).
        pub created_at: Micros,
    }
}

impl CareTemplate {
    /// The template that the text says.
    ///
    /// # Errors
    /// `Invalid` when this program knows a rule that the text breaks: it was stored by another one.
    pub(crate) fn read(&self) -> Result<Template, OperationalError> {
        Template::read(&self.source).map_err(|problems| refused(&problems))
    }
}

/// All that is wrong, as one error.
fn refused(problems: &[Problem]) -> OperationalError {
    let lines: Vec<String> = problems
        .iter()
        .map(|Problem { line, path, message }| format!("line {line}: {path}: {message}"))
        .collect();
    OperationalError::invalid(format!("the template cannot be used:\n{}", lines.join("\n")))
}

/// Stores a template as the next version of its name.
///
/// # Errors
/// `Invalid` with all that is wrong with it; `Conflict` when it is the latest version already.
pub(crate) async fn create(
    tx: &mut WriteTransaction,
    scope: Scope,
    source: &str,
) -> Result<CareTemplate, OperationalError> {
    let template = Template::read(source).map_err(|problems| refused(&problems))?;
    let last = stored(tx, scope.tenant_id, &template.name).await?;
    if last.as_ref().is_some_and(|last| last.source == source) {
        return Err(OperationalError::conflict(format!(
            "this is the latest version of \"{}\" already",
            template.name
        )));
    }
    let row = CareTemplate {
        template_id: tx.id::<CareTemplate>(None).await?,
        tenant_id: scope.tenant_id,
        version: last.map_or(1, |last| last.version + 1),
        title: template.title,
        condition: template.condition,
        source: source.to_owned(),
        created_at: Micros(scope.now),
        name: template.name,
    };
    insert_one(tx, &row).await.map_err(|error| {
        error.or_taken(|| "another version was stored at the same time; try again".to_owned())
    })?;
    Ok(row)
}

async fn stored(
    on: &mut Connection,
    tenant_id: i64,
    name: &str,
) -> Result<Option<CareTemplate>, OperationalError> {
    sql("select * from care_template where tenant_id = ?1 and name = ?2
         order by version desc limit 1")
    .bind(tenant_id)
    .bind(name)
    .first(on)
    .await
}

/// The latest version of a template; one that comes with the program is stored when it is first used.
///
/// # Errors
/// `Invalid` when there is none of this name.
pub(crate) async fn latest(
    tx: &mut WriteTransaction,
    scope: Scope,
    name: &str,
) -> Result<CareTemplate, OperationalError> {
    if let Some(found) = stored(tx, scope.tenant_id, name).await? {
        return Ok(found);
    }
    let Some(source) = shipped(name) else {
        return Err(OperationalError::invalid(format!("there is no template \"{name}\"")));
    };
    create(tx, scope, source).await
}

/// A version of a template.
///
/// # Errors
/// `NotFound`.
pub(crate) async fn find(
    on: &mut Connection,
    tenant_id: i64,
    template_id: i64,
) -> Result<CareTemplate, OperationalError> {
    sql("select * from care_template where template_id = ?1 and tenant_id = ?2")
        .bind(template_id)
        .bind(tenant_id)
        .first(on)
        .await?
        .ok_or(OperationalError::not_found("care_template", template_id))
}

/// What is wrong with a template; nothing when it can be used.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Checked {
    problems: Vec<Problem>,
}

/// A template that comes with the program.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Shipped {
    /// Its name.
    name: &'static str,
    /// The text.
    source: &'static str,
}

/// Templates of a tenant, and those that come with the program.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Templates {
    items: Vec<CareTemplate>,
    shipped: Vec<Shipped>,
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/chronic-care/templates", routing::post(post).get(get_all))
        .route("/chronic-care/templates/check", routing::post(post_check))
        .route("/chronic-care/templates/{id}", routing::get(get_one))
}

/// Store a template as the next version of its name. Programmes that run keep theirs.
#[utoipa::path(post, path = "/chronic-care/templates", tag = "chronic-care",
    request_body = NewTemplate, params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = CareTemplate), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    command: Command<NewTemplate>,
) -> Result<Answer, Failure> {
    command
        .carry_out(
            services.chronic_care(),
            services.now(),
            StatusCode::CREATED,
            |tx, scope, new| Box::pin(create(tx, scope, &new.source)),
        )
        .await
}

/// Say all that is wrong with a template. Nothing is stored.
#[utoipa::path(post, path = "/chronic-care/templates/check", tag = "chronic-care",
    request_body = NewTemplate,
    responses((status = 200, body = Checked), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_check(command: Command<NewTemplate>) -> Json<Checked> {
    let problems = Template::read(&command.body.source).err().unwrap_or_default();
    Json(Checked { problems })
}

/// List stored templates, and those that come with the program.
#[utoipa::path(get, path = "/chronic-care/templates", tag = "chronic-care", params(Page),
    responses((status = 200, body = Templates), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Params(page): Params<Page>,
) -> Result<Json<Templates>, Failure> {
    let items = sql("select * from care_template where tenant_id = ?1 and template_id > ?2
         order by template_id limit ?3")
    .bind(scope.tenant_id)
    .bind(page.after_id)
    .bind(page.limit.rows())
    .all(&mut *services.chronic_care().read().await?)
    .await?;
    let shipped = SHIPPED.iter().map(|&(name, source)| Shipped { name, source }).collect();
    Ok(Json(Templates { items, shipped }))
}

/// A version of a template.
#[utoipa::path(get, path = "/chronic-care/templates/{id}", tag = "chronic-care",
    params(("id" = i64, Path)),
    responses((status = 200, body = CareTemplate), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_one(
    State(services): State<Services>,
    scope: Scope,
    Id(template_id): Id,
) -> Result<Json<CareTemplate>, Failure> {
    let mut tx = services.chronic_care().read().await?;
    Ok(Json(find(&mut tx, scope.tenant_id, template_id).await?))
}
