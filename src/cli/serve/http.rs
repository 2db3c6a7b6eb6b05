//! The routes. Owns how a request becomes a job and a job's answer a response, the limits on bodies,
//! and the way in which the server ends.

use super::api_error::ApiError;
use super::guard::{Guard, guard};
use super::host::{ChatJob, Job};
use super::memories::{self, MemoryTask};
use super::page::Page;
use super::queue::{Queue, Refused, Ticket};
use super::reply::{Chunks, Head, Sink};
use super::request::read_request;
use super::text;
use super::{PROFILE_HEADER, WRITE_HEADER};
use crate::cli::options::engine_name;
use crate::cli::output::note;
use anyhow::{Context, Result};
use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use deltamem::engine::Engine;
use deltamem::loaded::LoadedModel;
use deltamem::memory_file::{MAX_FILE_BYTES, MemoryIdentity};
use deltamem::nano;
use futures_channel::oneshot;
use serde_json::{Value, json};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Largest history accepted; a window of 128k tokens takes about half a mebibyte.
pub(super) const MAX_REQUEST_BYTES: usize = 16 << 20;
/// Longest time for a body to arrive.
const BODY_TIME: Duration = Duration::from_secs(60);
/// How long a reply may go on after the server was told to stop, and connections after that.
const REPLY_GRACE: Duration = Duration::from_secs(10);
const CONNECTION_GRACE: Duration = Duration::from_secs(5);

/// What the routes know of the model.
pub struct App {
    model: String,
    identity: Option<MemoryIdentity>,
    context_window: usize,
    started_s: u64,
    /// For the page, and whoever wants to know: what a model in the browser says about itself.
    about: Value,
}

impl App {
    pub fn new(model: &LoadedModel) -> App {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let dims = model.engine.memory_dims();
        let (weights, kv) = match &model.engine {
            Engine::Gpu(gpu) => (gpu.options().weights.name(), gpu.options().kv.name()),
            Engine::Cpu(_) => ("f32", "f32"),
        };
        App {
            model: model.name.clone(),
            identity: model.identity.clone(),
            context_window: model.engine.context_window(),
            started_s: since.map_or(0, |since| since.as_secs()),
            about: json!({
                "adapter": engine_name(&model.engine),
                "identity": model.identity.as_ref().map(|identity| identity.digest()),
                "weights": weights,
                "kv": kv,
                "thinking": model.enable_thinking.is_some(),
                "notice": (model.name == nano::NAME).then_some(nano::NOTICE),
                "layers": dims.layers,
                "num_state_heads": dims.num_state_heads,
                "rank": dims.rank,
            }),
        }
    }

    fn identity(&self) -> Result<MemoryIdentity, ApiError> {
        self.identity.clone().ok_or_else(memories::no_memory)
    }

    fn model_json(&self) -> Value {
        json!({
            "id": self.model,
            "object": "model",
            "created": self.started_s,
            "owned_by": "deltamem",
            "context_window": self.context_window,
            "memory": self.identity.is_some(),
            "deltamem": self.about,
        })
    }

    /// The name of the model.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// In tokens.
    pub fn context_window(&self) -> usize {
        self.context_window
    }

    /// Refuses another model than the one that is loaded.
    pub fn check_model(&self, name: &str) -> Result<(), ApiError> {
        if name == self.model {
            return Ok(());
        }
        let message = format!("the model {name:?} is not loaded; this server has {:?}", self.model);
        Err(ApiError::not_found("model_not_found", message).with_param("model"))
    }
}

#[derive(Clone)]
pub(super) struct Shared {
    pub(super) app: Arc<App>,
    queue: Arc<Queue<Job>>,
}

impl Shared {
    fn push(&self, job: Job) -> Result<Ticket<Job>, ApiError> {
        self.queue.push(job).map_err(|refused| match refused {
            Refused::Full => ApiError::queue_full(),
            Refused::Closed => ApiError::shutting_down(),
        })
    }

    /// Has the model's thread do something and waits for it.
    pub(super) async fn ask<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, ApiError>>) -> Job,
    ) -> Result<T, ApiError> {
        let (answer, receiver) = oneshot::channel();
        let ticket = self.push(job(answer))?;
        let answer = receiver.await.map_err(|_| ApiError::shutting_down())?;
        drop(ticket);
        answer
    }
}

async fn health(State(shared): State<Shared>) -> Json<Value> {
    Json(json!({ "status": "ok", "waiting": shared.queue.n_waiting() }))
}

/// All routes behind their guard.
pub fn router(app: App, queue: Arc<Queue<Job>>, guarded: Guard, page: Page) -> Router {
    let page = Arc::new(page);
    Router::new()
        .route("/health", get(health))
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(text::completions))
        .route("/tokenize", post(text::tokenize))
        .route("/detokenize", post(text::detokenize))
        .route("/v1/memory", get(show).delete(forget))
        .route("/v1/memory/profiles", get(profiles))
        .route("/v1/memory/states", get(states))
        .route("/v1/memory/ledger", get(ledger))
        .route("/v1/memory/write", post(write_text))
        .route("/v1/memory/branch", post(branch))
        .route("/v1/memory/export", get(export))
        .route("/v1/memory/import", post(import))
        .route("/v1/memory/snapshots", get(snapshots).post(snapshot))
        .route("/v1/memory/undo", post(undo))
        .route("/v1/memory/forget", post(forget))
        .route("/v1/tokens", post(count_tokens))
        .fallback(move |request: Request| async move {
            let is_reading = matches!(*request.method(), Method::GET | Method::HEAD);
            let path = request.uri().path();
            page.get(path).filter(|_| is_reading).ok_or_else(|| {
                ApiError::not_found("not_found", format!("there is nothing at {path}"))
            })
        })
        .method_not_allowed_fallback(|| async {
            let status = StatusCode::METHOD_NOT_ALLOWED;
            ApiError::new(status, "method_not_allowed", "this address takes another method")
        })
        .layer(middleware::from_fn_with_state(Arc::new(guarded), guard))
        .with_state(Shared { app: Arc::new(app), queue })
}

/// Serves until a signal comes: Ctrl-C, or what service managers send. Then nothing new is taken, the
/// reply under way has some seconds left, and a second signal ends it at once.
///
/// # Errors
/// Those of the operating system.
pub fn serve(listener: TcpListener, router: Router, queue: &Arc<Queue<Job>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("starting the server")?;
    let served = runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let (stopped, has_stopped) = oneshot::channel();
        let stop = {
            let queue = Arc::clone(queue);
            async move {
                signal().await;
                note!("stopping after this reply; again stops at once");
                queue.close();
                let _ = stopped.send(());
            }
        };
        let serving = axum::serve(listener, router).with_graceful_shutdown(stop);
        let deadline = async {
            // an error means that serving itself has ended
            if has_stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::select! {
                () = tokio::time::sleep(REPLY_GRACE) => {}
                () = signal() => {}
            }
            queue.cancel_running();
            tokio::time::sleep(CONNECTION_GRACE).await;
        };
        tokio::select! {
            served = async { serving.await } => served,
            () = deadline => Ok(()),
        }
    });
    // a task that reads a slow disk must not hold up the end
    runtime.shutdown_timeout(Duration::from_secs(1));
    served.context("serving")
}

/// Resolves when the program is asked to end.
async fn signal() {
    let interrupt = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    let terminate = async {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => {
                terminate.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let terminate = std::future::pending::<()>();
    tokio::select! {
        () = interrupt => {}
        () = terminate => {}
    }
}

// ---- what requests say -----------------------------------------------------------------------------

fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, ApiError> {
    let mut given = headers.get_all(name).iter();
    let Some(value) = given.next() else { return Ok(None) };
    match (value.to_str(), given.next()) {
        (Ok(text), None) => Ok(Some(text)),
        _ => {
            let message = format!("the header {name} is not one line of ASCII text");
            Err(ApiError::bad_request("header", message).with_param(name))
        }
    }
}

/// Whose memory; what a name may look like is checked where the memory is opened.
pub(super) fn profile(headers: &HeaderMap) -> Result<String, ApiError> {
    Ok(header_text(headers, PROFILE_HEADER)?.unwrap_or("default").to_string())
}

fn is_written(headers: &HeaderMap) -> Result<bool, ApiError> {
    match header_text(headers, WRITE_HEADER)? {
        None | Some("true") => Ok(true),
        Some("false") => Ok(false),
        Some(_) => {
            let message = format!("the header {WRITE_HEADER} is neither true nor false");
            Err(ApiError::bad_request("header", message).with_param(WRITE_HEADER))
        }
    }
}

pub(super) async fn body(request: Request, kind: &str, limit: usize) -> Result<Bytes, ApiError> {
    let given = header_text(request.headers(), header::CONTENT_TYPE.as_str())?.unwrap_or("");
    let given = given.split(';').next().unwrap_or("").trim();
    if !given.eq_ignore_ascii_case(kind) {
        let message = format!("the body is to be of the type {kind}");
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_type", message));
    }
    bounded(request.into_body(), limit).await
}

async fn bounded(body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let too_large = || {
        let message = format!("the body has more than {limit} bytes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
    };
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_TIME, to_bytes(body, limit)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        // or the client is gone, and reads no answer
        Ok(Err(_)) => Err(too_large()),
        Err(_) => {
            let message = "the body did not arrive in time";
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "timeout", message))
        }
    }
}

// ---- models and chat -------------------------------------------------------------------------------

async fn models(State(shared): State<Shared>) -> Json<Value> {
    Json(json!({ "object": "list", "data": [shared.app.model_json()] }))
}

async fn model(
    State(shared): State<Shared>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    shared.app.check_model(&name)?;
    Ok(Json(shared.app.model_json()))
}

async fn chat(State(shared): State<Shared>, request: Request) -> Result<Response, ApiError> {
    let headers = request.headers();
    let (profile, is_written) = (profile(headers)?, is_written(headers)?);
    let body = body(request, "application/json", MAX_REQUEST_BYTES).await?;
    let request = read_request(&body)?;
    drop(body);
    if let Some(name) = &request.model {
        shared.app.check_model(name)?;
    }
    let head = Head::new(&shared.app.model);
    let (is_streamed, has_usage) = (request.is_streamed, request.has_usage);
    let job = |sink| Job::Chat(Box::new(ChatJob { request, profile, is_written, sink }));
    respond(&shared, head, is_streamed, has_usage, job).await
}

/// The answer to a job that replies, whole or in chunks.
pub(super) async fn respond(
    shared: &Shared,
    head: Head,
    is_streamed: bool,
    has_usage: bool,
    job: impl FnOnce(Sink) -> Job,
) -> Result<Response, ApiError> {
    if !is_streamed {
        let (sink, answer) = Sink::whole(head);
        let ticket = shared.push(job(sink))?;
        let answer = answer.await.map_err(|_| ApiError::shutting_down())??;
        drop(ticket);
        return Ok(Json(answer).into_response());
    }
    let (sink, begun, events) = Sink::chunks(head, has_usage);
    let ticket = shared.push(job(sink))?;
    // until the reply begins an error still has its status
    begun.await.map_err(|_| ApiError::shutting_down())??;
    Ok(Sse::new(Chunks { events, ticket }).keep_alive(KeepAlive::default()).into_response())
}

// ---- memories --------------------------------------------------------------------------------------

/// Reads the disk beside the thread that has the connections.
async fn read<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let failed = |_| {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "reading the memory failed")
    };
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}

async fn change(
    shared: &Shared,
    headers: &HeaderMap,
    task: MemoryTask,
) -> Result<Json<Value>, ApiError> {
    let profile = profile(headers)?;
    shared.ask(|answer| Job::Memory { profile, task, answer }).await.map(Json)
}

async fn profiles() -> Result<Json<Value>, ApiError> {
    read(memories::list).await.map(Json)
}

async fn show(State(shared): State<Shared>, headers: HeaderMap) -> Result<Json<Value>, ApiError> {
    let (profile, identity) = (profile(&headers)?, shared.app.identity()?);
    read(move || memories::show(&profile, &identity)).await.map(Json)
}

async fn states(State(shared): State<Shared>, headers: HeaderMap) -> Result<Json<Value>, ApiError> {
    let (profile, identity) = (profile(&headers)?, shared.app.identity()?);
    read(move || memories::states(&profile, &identity)).await.map(Json)
}

async fn ledger(State(shared): State<Shared>, headers: HeaderMap) -> Result<Json<Value>, ApiError> {
    let (profile, identity) = (profile(&headers)?, shared.app.identity()?);
    read(move || memories::ledger(&profile, &identity)).await.map(Json)
}

async fn snapshots(
    State(shared): State<Shared>,
    headers: HeaderMap,
) -> Result<Json<Value>, ApiError> {
    let (profile, identity) = (profile(&headers)?, shared.app.identity()?);
    read(move || memories::snapshots(&profile, &identity)).await.map(Json)
}

/// The memory as a file, or the generation that `?generation=N` names.
async fn export(State(shared): State<Shared>, request: Request) -> Result<Response, ApiError> {
    let (profile, identity) = (profile(request.headers())?, shared.app.identity()?);
    let generation = match request.uri().query() {
        None | Some("") => None,
        Some(query) => {
            let number = query.strip_prefix("generation=").and_then(|n| n.parse().ok());
            let message = "the query is not `generation=` and a number";
            Some(number.ok_or_else(|| ApiError::parameter("generation", message))?)
        }
    };
    let name = format!("attachment; filename=\"{profile}.dmem\"");
    let bytes = read(move || memories::export(&profile, &identity, generation)).await?;
    let kind = HeaderValue::from_static("application/octet-stream");
    let mut response = ([(header::CONTENT_TYPE, kind)], bytes).into_response();
    // a profile's name that could be exported has plain letters only
    if let Ok(name) = HeaderValue::from_str(&name) {
        response.headers_mut().insert(header::CONTENT_DISPOSITION, name);
    }
    Ok(response)
}

async fn import(
    State(shared): State<Shared>,
    headers: HeaderMap,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let bytes = body(request, "application/octet-stream", MAX_FILE_BYTES).await?;
    change(&shared, &headers, MemoryTask::Import(bytes)).await
}

async fn snapshot(
    State(shared): State<Shared>,
    headers: HeaderMap,
) -> Result<Json<Value>, ApiError> {
    change(&shared, &headers, MemoryTask::Snapshot).await
}

/// The body may be left out, or `{"to": GENERATION}`.
async fn undo(
    State(shared): State<Shared>,
    headers: HeaderMap,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let bytes = bounded(request.into_body(), 1024).await?;
    let given: Value = match bytes.is_empty() {
        true => json!({}),
        false => serde_json::from_slice(&bytes)
            .map_err(|e| ApiError::bad_request("invalid_json", format!("the body: {e}")))?,
    };
    let to = match given.get("to") {
        None | Some(Value::Null) => None,
        Some(to) => {
            let message = "`to` is not the number of a generation";
            Some(to.as_u64().ok_or_else(|| ApiError::parameter("to", message))?)
        }
    };
    change(&shared, &headers, MemoryTask::Undo(to)).await
}

/// A string that the JSON body must have.
async fn string_in(request: Request, name: &'static str) -> Result<String, ApiError> {
    let bytes = body(request, "application/json", MAX_REQUEST_BYTES).await?;
    let given: Value = serde_json::from_slice(&bytes)
        .map_err(|e| ApiError::bad_request("invalid_json", format!("the body: {e}")))?;
    let text = given.get(name).and_then(Value::as_str).map(str::to_string);
    text.ok_or_else(|| ApiError::parameter(name, format!("the body has no text `{name}`")))
}

/// Writes the body's `text` into the memory alone.
async fn write_text(
    State(shared): State<Shared>,
    headers: HeaderMap,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let (profile, text) = (profile(&headers)?, string_in(request, "text").await?);
    shared.ask(|answer| Job::Write { profile, text, answer }).await.map(Json)
}

/// Copies the memory into the profile that the body's `to` names, which must have none.
async fn branch(
    State(shared): State<Shared>,
    headers: HeaderMap,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let to = string_in(request, "to").await?;
    change(&shared, &headers, MemoryTask::Branch(to)).await
}

/// How many tokens the body's `text` takes.
async fn count_tokens(
    State(shared): State<Shared>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let text = string_in(request, "text").await?;
    let tokens = shared.ask(|answer| Job::Tokenize { text, answer }).await?;
    Ok(Json(json!({ "object": "tokens", "count": tokens.len() })))
}

async fn forget(State(shared): State<Shared>, headers: HeaderMap) -> Result<Json<Value>, ApiError> {
    change(&shared, &headers, MemoryTask::Forget).await
}
