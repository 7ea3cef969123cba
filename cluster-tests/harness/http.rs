//! A blocking HTTP client with kept-alive connections. Knows no status as an error: a test judges statuses.

use serde_json::Value;
use std::time::Duration;

/// Answers larger than this are an error: no test needs them.
const ANSWER_LIMIT: u64 = 1 << 30;

/// An answer, read whole.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Header names in lower case, with their values.
    pub headers: Vec<(String, String)>,
    /// The body as it came.
    pub body: Vec<u8>,
}

impl Answer {
    /// Whether the status is 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as text, damaged UTF-8 replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's value by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is not JSON; the message shows status and body.
    #[track_caller]
    pub fn json(&self) -> Value {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("status {}, not JSON ({error}): {}", self.status, self.text()),
        }
    }
}

/// No answer: refused, reset, timed out. Nobody knows whether the request took effect.
#[derive(Debug, Clone)]
pub struct NoAnswer(pub String);

/// A client of one base URL. Clones share their connections.
#[derive(Debug, Clone)]
pub struct Client {
    agent: ureq::Agent,
    base: String,
    headers: Vec<(String, String)>,
}

impl Client {
    /// A client of `base`, such as `http://127.0.0.1:9009`, that gives up on an answer after `limit`.
    pub fn new(base: &str, limit: Duration) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(limit))
            .max_idle_connections(64)
            .max_idle_connections_per_host(64)
            .build();
        Self { agent: config.into(), base: base.trim_end_matches('/').to_owned(), headers: Vec::new() }
    }

    /// The same client, sending one more header with each request.
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The base URL.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// GET `path` with `query` as its parameters.
    ///
    /// # Errors
    /// [`NoAnswer`] with the cause.
    pub fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Answer, NoAnswer> {
        let mut request = self.agent.get(self.url(path));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        finish(request.query_pairs(query.iter().copied()).call())
    }

    /// POST `path` with `form` as an urlencoded form.
    ///
    /// # Errors
    /// [`NoAnswer`] with the cause.
    pub fn post_form(&self, path: &str, form: &[(&str, &str)]) -> Result<Answer, NoAnswer> {
        let mut request = self.agent.post(self.url(path));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        finish(request.send_form(form.iter().copied()))
    }

    /// POST `path` with `body` and more headers.
    ///
    /// # Errors
    /// [`NoAnswer`] with the cause.
    pub fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer, NoAnswer> {
        let mut request = self.agent.post(self.url(path));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        finish(request.send(body))
    }

    /// The `data` of a successful GET of the Prometheus API.
    ///
    /// # Panics
    /// When there is no answer or it is not a success.
    #[track_caller]
    pub fn api(&self, path: &str, query: &[(&str, &str)]) -> Value {
        let answer = self.get(path, query).unwrap_or_else(|e| panic!("{path} {query:?}: {}", e.0));
        assert_eq!(answer.status, 200, "{path} {query:?}: {}", answer.text());
        let mut json = answer.json();
        assert_eq!(json["status"], "success", "{path} {query:?}: {json}");
        json["data"].take()
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }
}

fn finish(result: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Answer, NoAnswer> {
    let mut response = result.map_err(|e| NoAnswer(e.to_string()))?;
    let headers = response
        .headers()
        .iter()
        .map(|(n, v)| (n.as_str().to_owned(), String::from_utf8_lossy(v.as_bytes()).into_owned()))
        .collect();
    let body = response.body_mut().with_config().limit(ANSWER_LIMIT).read_to_vec();
    let body = body.map_err(|e| NoAnswer(e.to_string()))?;
    Ok(Answer { status: response.status().as_u16(), headers, body })
}
