//! The flags of the verbs transport, as servers and clients both have them.

use serde::{Deserialize, Serialize};
use windlass_transport::verbs::{ConfigError, VerbsConfig};

/// What was said of the verbs transport on the command line or in the config file. What was not is
/// taken from the environment (`WINDLASS_VERBS_DEVICE` and so on), or from the defaults, which work
/// on SoftRoCE, RoCE and InfiniBand.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, Serialize, Deserialize)]
#[command(next_help_heading = "Verbs")]
#[serde(default)]
pub struct VerbsFlags {
    /// RDMA device such as mlx5_0 [default: the first with an active port]
    #[arg(long, value_name = "NAME")]
    pub verbs_device: Option<String>,
    /// Port of the device, from 1 [default: the first active one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=254))]
    pub verbs_port: Option<u8>,
    /// Index into the port's table of addresses [default: RoCE v2, IPv4 before IPv6]
    #[arg(long, value_name = "N")]
    pub verbs_gid_index: Option<u8>,
    /// IP traffic class (DSCP and ECN) of RoCE packets [default: 0]
    #[arg(long, value_name = "N")]
    pub verbs_traffic_class: Option<u8>,
    /// InfiniBand service level, or RoCE priority [default: 0]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=15))]
    pub verbs_service_level: Option<u8>,
    /// Path MTU in bytes: 256, 512, 1024, 2048 or 4096 [default: the port's]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(256..=4096))]
    pub verbs_mtu: Option<u16>,
    /// Times an unanswered packet is sent again, 0 to 7; with 7 SoftRoCE never gives up
    /// [default: 6]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=7))]
    pub verbs_retry_count: Option<u8>,
    /// When it is first sent again: after 4.096 us times 2 to this power [default: 14]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=31))]
    pub verbs_timeout: Option<u8>,
    /// Times a receiver that is not ready is asked again, 0 to 7; 7 means without limit [default: 6]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=7))]
    pub verbs_rnr_retry: Option<u8>,
    /// Code of the time such a receiver asks for; 12 is 0.64 ms [default: 12]
    #[arg(long, value_name = "CODE", value_parser = clap::value_parser!(u8).range(0..=31))]
    pub verbs_rnr_timer: Option<u8>,
}

impl VerbsFlags {
    /// The settings.
    ///
    /// # Errors
    /// When one of them, wherever it comes from, is out of range.
    pub fn config(&self) -> Result<VerbsConfig, ConfigError> {
        let base = VerbsConfig::from_environment();
        let config = VerbsConfig {
            device: self.verbs_device.clone().or(base.device),
            port: self.verbs_port.or(base.port),
            gid_index: self.verbs_gid_index.or(base.gid_index),
            traffic_class: self.verbs_traffic_class.unwrap_or(base.traffic_class),
            service_level: self.verbs_service_level.unwrap_or(base.service_level),
            mtu: self.verbs_mtu.or(base.mtu),
            retry_count: self.verbs_retry_count.unwrap_or(base.retry_count),
            timeout: self.verbs_timeout.unwrap_or(base.timeout),
            rnr_retry: self.verbs_rnr_retry.unwrap_or(base.rnr_retry),
            rnr_timer: self.verbs_rnr_timer.unwrap_or(base.rnr_timer),
            ..base
        };
        config.validate()?;
        Ok(config)
    }

    /// The flags as words of a command line, for processes that this one starts.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut add = |name: &str, value: Option<String>| {
            words.extend(value.map(|value| format!("--verbs-{name}={value}")));
        };
        let text = |value: Option<u8>| value.map(|value| value.to_string());
        add("device", self.verbs_device.clone());
        add("port", text(self.verbs_port));
        add("gid-index", text(self.verbs_gid_index));
        add("traffic-class", text(self.verbs_traffic_class));
        add("service-level", text(self.verbs_service_level));
        add("mtu", self.verbs_mtu.map(|mtu| mtu.to_string()));
        add("retry-count", text(self.verbs_retry_count));
        add("timeout", text(self.verbs_timeout));
        add("rnr-retry", text(self.verbs_rnr_retry));
        add("rnr-timer", text(self.verbs_rnr_timer));
        words
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        verbs: VerbsFlags,
    }

    fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<VerbsFlags, clap::Error> {
        Cli::try_parse_from(std::iter::once("test").chain(words)).map(|cli| cli.verbs)
    }

    #[test]
    fn every_flag_reaches_the_settings_and_the_processes_started() {
        let line = "--verbs-device=mlx5_1 --verbs-port=2 --verbs-gid-index=3 \
            --verbs-traffic-class=106 --verbs-service-level=5 --verbs-mtu=2048 \
            --verbs-retry-count=4 --verbs-timeout=16 --verbs-rnr-retry=7 --verbs-rnr-timer=1";
        let flags = parse(line.split_whitespace()).unwrap();
        let expected = VerbsConfig {
            device: Some("mlx5_1".into()),
            port: Some(2),
            gid_index: Some(3),
            traffic_class: 106,
            service_level: 5,
            mtu: Some(2048),
            retry_count: 4,
            timeout: 16,
            rnr_retry: 7,
            rnr_timer: 1,
            ..VerbsConfig::default()
        };
        assert_eq!(flags.config(), Ok(expected));
        let words = flags.words();
        assert_eq!(words.join(" "), line.split_whitespace().collect::<Vec<_>>().join(" "));
        assert_eq!(parse(words.iter().map(String::as_str)).unwrap(), flags);
    }

    #[test]
    fn an_mtu_that_no_path_has_is_refused() {
        let flags = parse(["--verbs-mtu", "1500"]).unwrap();
        assert_eq!(flags.config().unwrap_err().setting, "mtu");
        assert!(parse(["--verbs-retry-count", "8"]).is_err());
    }
}
