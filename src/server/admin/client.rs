//! A client of a node's HTTP API, for commands: one connection for each request.
//!
//! Knows the envelope of answers. Does not know what is asked. Plain HTTP only.

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, Uri, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::fmt::Write;
use std::time::Duration;
use tokio::net::TcpStream;

/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer that is read.
const MAX_ANSWER: usize = 64 << 20;

/// See the module header.
pub(super) struct Client {
    host: String,
    /// What stands before every path, without a slash at its end.
    prefix: String,
}

impl Client {
    /// A client of the node at `url`: `http://HOST:PORT`, and a path if the node is behind one.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub(super) fn new(url: &str) -> Result<Self, String> {
        let wrong = || format!("--url must be http://HOST:PORT, it is {url}");
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(wrong)?;
        let port = authority.port_u16().unwrap_or(80);
        let prefix = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { host: format!("{}:{port}", authority.host()), prefix })
    }

    /// The `data` of the answer.
    ///
    /// # Errors
    /// Why there is none, as the node says it.
    pub(super) async fn get(&self, path: &str) -> Result<Value, String> {
        self.ask(Method::GET, path, String::new()).await
    }

    /// The same of a form.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub(super) async fn post(&self, path: &str, form: &[(&str, &str)]) -> Result<Value, String> {
        let pairs: Vec<String> =
            form.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        self.ask(Method::POST, path, pairs.join("&")).await
    }

    async fn ask(&self, method: Method, path: &str, body: String) -> Result<Value, String> {
        let asking = self.send(method, path, body);
        let late = || format!("{} does not answer within {TIMEOUT:?}", self.host);
        let (status, bytes) = tokio::time::timeout(TIMEOUT, asking).await.map_err(|_| late())??;
        let answer: Option<Value> = serde_json::from_slice(&bytes).ok();
        match answer {
            Some(mut answer) if status == 200 => Ok(answer["data"].take()),
            Some(answer) if answer["error"].is_string() => {
                Err(answer["error"].as_str().unwrap_or_default().to_owned())
            }
            _ => Err(format!("{} answered {status}, which is no answer of Quorate", self.host)),
        }
    }

    async fn send(&self, method: Method, path: &str, body: String) -> Result<(u16, Bytes), String> {
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", self.host);
        let stream = TcpStream::connect(&self.host).await.map_err(|e| failed(&e))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(&e))?;
        // An error of the connection is also one of the request.
        let driving = tokio::spawn(async move { drop(connection.await) });
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.prefix))
            .header(header::HOST, &self.host)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| failed(&e))?;
        let answer = sender.send_request(request).await.map_err(|e| failed(&e))?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|e| failed(&e))?;
        driving.abort();
        Ok((status, body.to_bytes()))
    }
}

fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => out.push(char::from(byte)),
            byte => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart_and_others_refused() {
        for (url, host, prefix) in [
            ("http://127.0.0.1:9009", "127.0.0.1:9009", ""),
            ("http://node-1/", "node-1:80", ""),
            ("http://[::1]:9/quorate/", "[::1]:9", "/quorate"),
        ] {
            let client = Client::new(url).unwrap();
            assert_eq!((client.host.as_str(), client.prefix.as_str()), (host, prefix), "{url}");
        }
        for url in ["127.0.0.1:9009", "https://h:1", "", "http://"] {
            assert!(Client::new(url).is_err(), "{url}");
        }
    }

    #[test]
    fn values_of_forms_are_encoded() {
        assert_eq!(encoded("n-1 &ü"), "n-1%20%26%C3%BC");
    }
}
