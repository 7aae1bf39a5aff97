//! The store of several coordinators on several machines: an etcd cluster.
//!
//! ```text
//! PREFIX/leader      held under a lease by the coordinator that leads
//! PREFIX/map         the map
//! PREFIX/catalogue   the catalogue
//! PREFIX/alive/...   held under its lease by each coordinator that leads or waits to
//! ```
//!
//! Every write is one transaction that demands that the leader's key is still the writer's and that the
//! item is as the writer knows it: a coordinator that was paused for longer than its lease cannot write.

mod gateway;

use std::time::{Duration, Instant};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use self::gateway::{Gateway, number, revision_is};
use super::{Item, Store, StoreError, Written, version_of};

/// A connection to etcd.
#[derive(Debug)]
pub(super) struct EtcdStore {
    gateway: Gateway,
    prefix: String,
    lease: Option<i64>,
    /// When the leader's key was created, which names this term.
    term: i64,
    /// When each item was last changed.
    revisions: [i64; Item::ALL.len()],
    /// The version of each item then.
    versions: [u64; Item::ALL.len()],
}

/// How long a leader that says nothing leads; etcd grants no less than its own election takes.
const LEASE_S: u32 = 2;

/// What the keys of coordinators begin with, and what sorts after all of them.
const ALIVE: &str = "alive/";
const AFTER_ALIVE: &str = "alive0";

/// Between two attempts to lead.
const CAMPAIGN_INTERVAL: Duration = Duration::from_millis(100);

impl EtcdStore {
    /// Keys under `prefix` in the etcd cluster with these members.
    pub(super) fn new(endpoints: &[String], prefix: &str) -> Self {
        Self {
            gateway: Gateway::new(endpoints),
            prefix: prefix.trim_end_matches('/').to_owned(),
            lease: None,
            term: 0,
            revisions: Default::default(),
            versions: Default::default(),
        }
    }

    fn key(&self, name: &str) -> String {
        STANDARD.encode(format!("{}/{name}", self.prefix))
    }

    /// The lease of this coordinator, renewed or new.
    fn lease(&mut self) -> Result<i64, StoreError> {
        if let Some(lease) = self.lease
            && self.keep_alive(lease)?
        {
            return Ok(lease);
        }
        self.lease = None;
        let granted = self.gateway.post("/v3/lease/grant", &json!({ "TTL": LEASE_S }))?;
        let lease = number(&granted["ID"]);
        let key = self.key(&format!("{ALIVE}{lease}"));
        let put = json!({ "key": key, "lease": lease.to_string() });
        self.gateway.post("/v3/kv/put", &put)?;
        self.lease = Some(lease);
        Ok(lease)
    }

    /// Whether a lease has not run out.
    fn keep_alive(&mut self, lease: i64) -> Result<bool, StoreError> {
        let body = json!({ "ID": lease.to_string() });
        let answer = self.gateway.post("/v3/lease/keepalive", &body)?;
        Ok(number(&answer["result"]["TTL"]) > 0)
    }

    /// Takes the leader's key unless somebody has it; whether this coordinator has it now.
    fn try_lead(&mut self) -> Result<bool, StoreError> {
        let lease = self.lease()?;
        let key = self.key("leader");
        let put = json!({ "key": key, "value": STANDARD.encode(lease.to_string()), "lease": lease.to_string() });
        let read = json!({ "requestRange": { "key": key } });
        let body = json!({
            "compare": [revision_is(&key, "create_revision", 0)],
            "success": [{ "requestPut": put }, read],
            "failure": [read],
        });
        let answer = self.gateway.post("/v3/kv/txn", &body)?;
        let ranges = answer["responses"].as_array().into_iter().flatten();
        let holder = ranges.filter_map(|one| one["response_range"]["kvs"].get(0)).next();
        let Some(holder) = holder else { return Ok(false) };
        // Its own key, when the answer to the attempt before was lost.
        if number(&holder["lease"]) != lease {
            return Ok(false);
        }
        self.term = number(&holder["create_revision"]);
        Ok(true)
    }

    fn read(&mut self, item: Item) -> Result<Option<Vec<u8>>, StoreError> {
        let body = json!({ "key": self.key(item.name()) });
        let answer = self.gateway.post("/v3/kv/range", &body)?;
        let Some(found) = answer["kvs"].get(0) else {
            (self.revisions[item as usize], self.versions[item as usize]) = (0, 0);
            return Ok(None);
        };
        self.revisions[item as usize] = number(&found["mod_revision"]);
        // The gateway leaves out a value that is empty.
        let text = found["value"].as_str().unwrap_or_default();
        let damaged = || StoreError::Damaged { what: format!("{}/{}", self.prefix, item.name()) };
        let bytes = STANDARD.decode(text).map_err(|_| damaged())?;
        self.versions[item as usize] = version_of(&bytes);
        Ok(Some(bytes))
    }
}

impl Store for EtcdStore {
    fn name(&self) -> &'static str {
        "etcd"
    }

    fn campaign(&mut self, patience: Duration) -> Result<Option<Vec<Option<Vec<u8>>>>, StoreError> {
        let deadline = Instant::now() + patience;
        while !self.try_lead()? {
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(CAMPAIGN_INTERVAL);
        }
        let mut items = Vec::new();
        for item in Item::ALL {
            items.push(self.read(item)?);
        }
        Ok(Some(items))
    }

    fn write(&mut self, item: Item, expected: u64, bytes: &[u8]) -> Result<Written, StoreError> {
        let (version, known) = (version_of(bytes), self.versions[item as usize]);
        // The version itself: this very write was done before, and its answer lost.
        if known != expected && known != version {
            return Ok(Written::Deposed);
        }
        let (leader, key) = (self.key("leader"), self.key(item.name()));
        let put = json!({ "key": key, "value": STANDARD.encode(bytes) });
        let body = json!({
            "compare": [
                revision_is(&leader, "create_revision", self.term),
                revision_is(&key, "mod_revision", self.revisions[item as usize]),
            ],
            "success": [{ "requestPut": put }],
            "failure": [{ "requestRange": { "key": leader } }],
        });
        let answer: Value = self.gateway.post("/v3/kv/txn", &body)?;
        if answer["succeeded"].as_bool() == Some(true) {
            self.revisions[item as usize] = number(&answer["header"]["revision"]);
            self.versions[item as usize] = version;
            return Ok(Written::Done);
        }
        let holder = &answer["responses"][0]["response_range"]["kvs"][0];
        if number(&holder["create_revision"]) != self.term {
            return Ok(Written::Deposed);
        }
        // It leads, and the item has changed: this very write was done, and its answer lost.
        let stored = self.read(item)?;
        Ok(if stored.as_deref() == Some(bytes) { Written::Done } else { Written::Deposed })
    }

    fn lease(&self) -> Option<Duration> {
        Some(Duration::from_secs(u64::from(LEASE_S)))
    }

    fn renew(&mut self) -> Result<bool, StoreError> {
        match self.lease {
            Some(lease) => self.keep_alive(lease),
            None => Ok(false),
        }
    }

    fn has_standby(&mut self) -> Result<bool, StoreError> {
        let range = json!({
            "key": self.key(ALIVE),
            "range_end": self.key(AFTER_ALIVE),
            "count_only": true,
        });
        Ok(number(&self.gateway.post("/v3/kv/range", &range)?["count"]) > 1)
    }

    fn resign(&mut self) {
        if let Some(lease) = self.lease.take() {
            // Where that fails, the lease runs out by itself.
            let _ = self.gateway.post("/v3/lease/revoke", &json!({ "ID": lease.to_string() }));
        }
    }
}
