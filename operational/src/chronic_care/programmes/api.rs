//! The addresses of programmes.

use axum::{Json, Router, extract::State, http::StatusCode, routing};

use super::{
    Cancellation, CareProgramme, Move, NewProgramme, ProgrammeDetail, cancel, find, move_to,
    of_patient, start,
};
use crate::{
    Scope, Services,
    chronic_care::patients,
    database::sql,
    http::{Answer, Command, ErrorBody, Failure, Id, List},
};

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/chronic-care/patients/{id}/programmes", routing::post(post).get(get_all))
        .route("/chronic-care/programmes/{id}", routing::get(get_one))
        .route("/chronic-care/programmes/{id}/move", routing::post(post_move))
        .route("/chronic-care/programmes/{id}/cancellation", routing::post(post_cancellation))
}

/// Start a programme.
#[utoipa::path(post, path = "/chronic-care/patients/{id}/programmes", tag = "chronic-care",
    request_body = NewProgramme,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = CareProgramme), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    Id(patient_id): Id,
    command: Command<NewProgramme>,
) -> Result<Answer, Failure> {
    command
        .carry_out(
            services.chronic_care(),
            services.now(),
            StatusCode::CREATED,
            |tx, scope, new| Box::pin(start(tx, scope, patient_id, new)),
        )
        .await
}

/// The programmes of a patient.
#[utoipa::path(get, path = "/chronic-care/patients/{id}/programmes", tag = "chronic-care",
    params(("id" = i64, Path)),
    responses((status = 200, body = List<CareProgramme>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Id(patient_id): Id,
) -> Result<Json<List<CareProgramme>>, Failure> {
    let mut tx = services.chronic_care().read().await?;
    patients::find(&mut tx, scope, patient_id).await?;
    Ok(Json(List { items: of_patient(&mut tx, patient_id).await? }))
}

/// A programme with the steps it has entered, up to a thousand.
#[utoipa::path(get, path = "/chronic-care/programmes/{id}", tag = "chronic-care",
    params(("id" = i64, Path)),
    responses((status = 200, body = ProgrammeDetail), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_one(
    State(services): State<Services>,
    scope: Scope,
    Id(programme_id): Id,
) -> Result<Json<ProgrammeDetail>, Failure> {
    let mut tx = services.chronic_care().read().await?;
    let programme = find(&mut tx, scope, programme_id).await?;
    patients::find(&mut tx, scope, programme.patient_id)
        .await
        .map_err(|error| error.of("care_programme", programme_id))?;
    let steps = sql("select * from care_step where programme_id = ?1 order by visit limit 1000")
        .bind(programme_id)
        .all(&mut tx)
        .await?;
    Ok(Json(ProgrammeDetail { programme, steps }))
}

/// Move a programme to another version of its template, or to another step.
#[utoipa::path(post, path = "/chronic-care/programmes/{id}/move", tag = "chronic-care",
    request_body = Move,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = CareProgramme), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_move(
    State(services): State<Services>,
    Id(programme_id): Id,
    command: Command<Move>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.chronic_care(), services.now(), StatusCode::OK, |tx, scope, to| {
            Box::pin(move_to(tx, scope, programme_id, to))
        })
        .await
}

/// End a programme.
#[utoipa::path(post, path = "/chronic-care/programmes/{id}/cancellation", tag = "chronic-care",
    request_body = Cancellation,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = CareProgramme), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_cancellation(
    State(services): State<Services>,
    Id(programme_id): Id,
    command: Command<Cancellation>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.chronic_care(), services.now(), StatusCode::OK, |tx, scope, end| {
            Box::pin(cancel(tx, scope, programme_id, end))
        })
        .await
}
