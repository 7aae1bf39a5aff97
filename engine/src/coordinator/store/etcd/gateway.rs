//! etcd's JSON gateway: <https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/>.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::StoreError;

/// Several members of one etcd cluster, tried in turn.
#[derive(Debug)]
pub(super) struct Gateway {
    agent: ureq::Agent,
    endpoints: Vec<String>,
    /// The one that answered last.
    current: usize,
}

/// How long one member may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(700);

impl Gateway {
    /// Members at `HOST:PORT` or `http://HOST:PORT`.
    pub(super) fn new(endpoints: &[String]) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(ANSWER_TIMEOUT))
            .http_status_as_error(false)
            .build();
        let with_scheme = |endpoint: &String| match endpoint.contains("://") {
            true => endpoint.trim_end_matches('/').to_owned(),
            false => format!("http://{endpoint}"),
        };
        let endpoints = endpoints.iter().map(with_scheme).collect();
        Self { agent: config.into(), endpoints, current: 0 }
    }

    /// Asks the first member that answers.
    pub(super) fn post(&mut self, path: &str, body: &Value) -> Result<Value, StoreError> {
        let mut failed = None;
        for step in 0..self.endpoints.len() {
            let at = (self.current + step) % self.endpoints.len();
            match self.post_to(at, path, body) {
                Ok(answer) => {
                    self.current = at;
                    return Ok(answer);
                }
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or(StoreError::NoEndpoint))
    }

    fn post_to(&self, at: usize, path: &str, body: &Value) -> Result<Value, StoreError> {
        let endpoint = self.endpoints[at].clone();
        let unreachable = |source: ureq::Error| StoreError::Unreachable {
            endpoint: endpoint.clone(),
            source: Box::new(source),
        };
        let url = format!("{endpoint}{path}");
        let sent = self.agent.post(&url).content_type("application/json").send(body.to_string());
        let mut response = sent.map_err(unreachable)?;
        let is_done = response.status().is_success();
        let text = response.body_mut().read_to_string().map_err(unreachable)?;
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        if is_done && answer.is_object() {
            return Ok(answer);
        }
        let text = answer["error"].as_str().unwrap_or(&text).chars().take(200).collect();
        Err(StoreError::Refused { endpoint, text })
    }
}

/// A number of 64 bits, which the gateway writes as text; zero, which it leaves out.
pub(super) fn number(value: &Value) -> i64 {
    value.as_str().and_then(|text| text.parse().ok()).or(value.as_i64()).unwrap_or(0)
}

/// A condition: the key was created, or last changed, at this revision; zero when there is none.
pub(super) fn revision_is(key: &str, which: &str, revision: i64) -> Value {
    let target = if which == "create_revision" { "CREATE" } else { "MOD" };
    json!({ "key": key, "target": target, "result": "EQUAL", which: revision.to_string() })
}
