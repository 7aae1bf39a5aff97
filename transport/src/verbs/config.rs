//! Settings of the verbs transport: which device, and how its queue pairs behave.

use std::time::Duration;

use crate::fabric::Promises;

/// Settings of a verbs transport. The defaults work unchanged on SoftRoCE, RoCE and InfiniBand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerbsConfig {
    /// Device name such as `mlx5_0`; the first with an active port when `None`.
    pub device: Option<String>,
    /// Port number from 1; the first active one when `None`.
    pub port: Option<u8>,
    /// Index into the port's GID table; the best RoCE v2 address when `None`, see
    /// [`super::device::choose_gid`].
    pub gid_index: Option<u8>,
    /// IP traffic class (DSCP and ECN) of RoCE packets.
    pub traffic_class: u8,
    /// InfiniBand service level.
    pub service_level: u8,
    /// Path MTU in bytes, a power of two from 256 to 4096; the port's active MTU when `None`.
    pub mtu: Option<u16>,
    /// Times an unanswered packet is sent again before the queue pair fails, 0 to 7. 7 never
    /// gives up on SoftRoCE, so a dead peer would go unnoticed.
    pub retry_count: u8,
    /// Time until the first repetition: 4.096 us times 2 to this power, 1 to 31.
    pub timeout: u8,
    /// Times a request is sent again to a receiver that is not ready, 0 to 7; 7 means without limit.
    pub rnr_retry: u8,
    /// Code of the time a receiver that is not ready asks for; 12 is 0.64 ms.
    pub rnr_timer: u8,
    /// Requests of one queue pair in flight.
    pub outstanding_max: u32,
    /// Receives posted on one queue pair.
    pub receives_max: u32,
    /// Whether this host's device reads its memory for peers in ascending address order; what is known of
    /// the device when `None`. `Some(false)` also has this side rely on no peer's device doing so.
    pub reads_in_order: Option<bool>,
    /// Likewise, whether reads bring aligned words whole.
    pub reads_words_whole: Option<bool>,
    /// Likewise, whether peers' writes to this host's memory show in the order they were posted.
    pub writes_in_order: Option<bool>,
    /// Bound on the time the active side waits for the passive side's answer.
    pub connect_timeout: Duration,
    /// How long a peer's device has to answer the farewell of a queue pair that was
    /// [disconnected](crate::fabric::Transport::disconnect), before it is destroyed. Nobody waits for it
    /// but a transport that is dropped.
    pub farewell_timeout: Duration,
}

impl Default for VerbsConfig {
    fn default() -> Self {
        Self {
            device: None,
            port: None,
            gid_index: None,
            traffic_class: 0,
            service_level: 0,
            mtu: None,
            retry_count: 6,
            timeout: 14,
            rnr_retry: 6,
            rnr_timer: 12,
            outstanding_max: 128,
            receives_max: 64,
            reads_in_order: None,
            reads_words_whole: None,
            writes_in_order: None,
            connect_timeout: Duration::from_secs(5),
            farewell_timeout: Duration::from_millis(100),
        }
    }
}

impl VerbsConfig {
    /// The defaults, changed where an environment variable says so: `WINDLASS_VERBS_` and the
    /// setting in capitals, for `DEVICE`, `PORT`, `GID_INDEX`, `TRAFFIC_CLASS`, `SERVICE_LEVEL`,
    /// `MTU`, `RETRY_COUNT`, `TIMEOUT`, `RNR_RETRY`, `RNR_TIMER`, `READS_IN_ORDER`, `READS_WORDS_WHOLE` and
    /// `WRITES_IN_ORDER` (0 or 1). A value that is no number counts as absent; one out of range is refused
    /// at opening.
    #[must_use]
    pub fn from_environment() -> Self {
        Self::from_variables(|setting| std::env::var(format!("WINDLASS_VERBS_{setting}")).ok())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let number = |setting| variable(setting)?.parse::<u8>().ok();
        let defaults = Self::default();
        Self {
            device: variable("DEVICE").filter(|name| !name.is_empty()),
            port: number("PORT"),
            gid_index: number("GID_INDEX"),
            traffic_class: number("TRAFFIC_CLASS").unwrap_or(defaults.traffic_class),
            service_level: number("SERVICE_LEVEL").unwrap_or(defaults.service_level),
            mtu: variable("MTU").and_then(|mtu| mtu.parse().ok()),
            retry_count: number("RETRY_COUNT").unwrap_or(defaults.retry_count),
            timeout: number("TIMEOUT").unwrap_or(defaults.timeout),
            rnr_retry: number("RNR_RETRY").unwrap_or(defaults.rnr_retry),
            rnr_timer: number("RNR_TIMER").unwrap_or(defaults.rnr_timer),
            reads_in_order: number("READS_IN_ORDER").map(|in_order| in_order != 0),
            reads_words_whole: number("READS_WORDS_WHOLE").map(|whole| whole != 0),
            writes_in_order: number("WRITES_IN_ORDER").map(|in_order| in_order != 0),
            ..defaults
        }
    }

    /// What this host's device promises, by these settings and by what is known of it.
    pub(super) fn promises(&self, known: Promises) -> Promises {
        Promises {
            reads_in_order: self.reads_in_order.unwrap_or(known.reads_in_order),
            reads_words_whole: self.reads_words_whole.unwrap_or(known.reads_words_whole),
            writes_in_order: self.writes_in_order.unwrap_or(known.writes_in_order),
        }
    }

    /// Which of a peer's promises this side relies on.
    pub(super) fn narrow(&self, theirs: Promises) -> Promises {
        theirs.and(self.promises(Promises::ALL))
    }

    /// Checks every value against its range.
    ///
    /// # Errors
    /// Names the first setting out of range, with the range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let check = |setting, value: u32, min: u32, max: u32| {
            if (min..=max).contains(&value) {
                Ok(())
            } else {
                Err(ConfigError { setting, value, min, max })
            }
        };
        check("port", u32::from(self.port.unwrap_or(1)), 1, 254)?;
        check("service_level", u32::from(self.service_level), 0, 15)?;
        check("retry_count", u32::from(self.retry_count), 0, 7)?;
        check("timeout", u32::from(self.timeout), 1, 31)?;
        check("rnr_retry", u32::from(self.rnr_retry), 0, 7)?;
        check("rnr_timer", u32::from(self.rnr_timer), 0, 31)?;
        check("outstanding_max", self.outstanding_max, 2, OUTSTANDING_MAX)?;
        check("receives_max", self.receives_max, 1, OUTSTANDING_MAX)?;
        if let Some(mtu) = self.mtu {
            check("mtu", u32::from(mtu), 256, 4096)?;
            if !mtu.is_power_of_two() {
                return Err(ConfigError {
                    setting: "mtu",
                    value: u32::from(mtu),
                    min: 256,
                    max: 4096,
                });
            }
        }
        Ok(())
    }
}

/// Most requests of one queue pair in flight, whatever the settings say.
const OUTSTANDING_MAX: u32 = 8192;

/// A setting out of its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "verbs setting {setting} is {value}: give a value from {min} to {max} (an MTU: a power of two)"
)]
pub struct ConfigError {
    /// The setting's name.
    pub setting: &'static str,
    /// Its value.
    pub value: u32,
    /// The least.
    pub min: u32,
    /// The most.
    pub max: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_a_dead_peer_is_noticed() {
        let config = VerbsConfig::default();
        config.validate().unwrap();
        assert!(config.retry_count < 7, "7 never gives up on SoftRoCE");
    }

    #[test]
    fn variables_change_what_they_name_and_nothing_else() {
        let config = VerbsConfig::from_variables(|setting| match setting {
            "DEVICE" => Some("mlx5_1".into()),
            "MTU" => Some("2048".into()),
            "TIMEOUT" => Some("fast".into()),
            "RETRY_COUNT" => Some("3".into()),
            "READS_IN_ORDER" => Some("0".into()),
            _ => None,
        });
        let expected = VerbsConfig {
            device: Some("mlx5_1".into()),
            mtu: Some(2048),
            retry_count: 3,
            reads_in_order: Some(false),
            ..VerbsConfig::default()
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn a_reader_relies_on_what_the_peers_device_promises_and_no_more() {
        let reader = |reads_in_order| VerbsConfig { reads_in_order, ..VerbsConfig::default() };
        for (theirs, setting, relies) in [
            (true, None, true),
            (true, Some(true), true),
            (true, Some(false), false),
            (false, None, false),
            (false, Some(true), false),
            (false, Some(false), false),
        ] {
            let theirs = Promises { reads_in_order: theirs, ..Promises::ALL };
            assert_eq!(reader(setting).narrow(theirs).reads_in_order, relies);
        }
        let known = Promises { reads_in_order: false, ..Promises::ALL };
        assert!(
            reader(Some(true)).promises(known).reads_in_order,
            "its own device, by its operator"
        );
    }

    #[test]
    fn values_out_of_range_are_named() {
        let config = VerbsConfig { mtu: Some(1000), ..VerbsConfig::default() };
        assert_eq!(config.validate().unwrap_err().setting, "mtu");
        let config = VerbsConfig { retry_count: 8, ..VerbsConfig::default() };
        assert_eq!(config.validate().unwrap_err().setting, "retry_count");
    }
}
