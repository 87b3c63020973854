//! Whether jobs are on a Temporal cluster, and which: asked for in as many words, never by TEMPORAL_ADDRESS alone, which other
//! programs of the same shell need for themselves.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::{Origin, Setting, Settings, SettingsError};
use crate::cli::args::ClusterArgs;
use crate::connect::Given;

/// Where jobs are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Temporal {
    /// In the journal of the state directory.
    #[default]
    No,
    /// On the cluster that temporal.toml and TEMPORAL_* name.
    Profile,
    /// On the cluster there.
    At(String),
}

impl FromStr for Temporal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "no" | "false" => return Ok(Self::No),
            "profile" | "true" | "yes" => return Ok(Self::Profile),
            _ => {}
        }
        let place = ["http://", "https://"]
            .iter()
            .find_map(|scheme| text.strip_prefix(scheme));
        let host_and_port = place.unwrap_or(text).trim_end_matches('/').rsplit_once(':');
        match host_and_port {
            Some((host, port)) if !host.is_empty() && !host.contains(['/', '@']) && port.parse::<u16>().is_ok() => {
                Ok(Self::At(text.to_owned()))
            }
            _ => Err(
                "it must be HOST:PORT, http(s)://HOST:PORT, profile (what temporal.toml and TEMPORAL_* say), or no".to_owned(),
            ),
        }
    }
}

impl fmt::Display for Temporal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::No => "no",
            Self::Profile => "profile",
            Self::At(address) => address,
        })
    }
}

/// The settings of a cluster, but for whether there is one.
const OF_A_CLUSTER: [Setting; 7] = [
    Setting::TemporalProfile,
    Setting::Namespace,
    Setting::TlsCa,
    Setting::TlsCert,
    Setting::TlsKey,
    Setting::TlsServerName,
    Setting::ApiKeyFile,
];

impl Settings {
    /// The cluster that was asked for, if one was.
    pub fn cluster(&self) -> Option<Given> {
        let address = match &self.temporal {
            Temporal::No => return None,
            Temporal::Profile => None,
            Temporal::At(address) => Some(address.clone()),
        };
        Some(Given {
            address,
            ..self.of_cluster.clone()
        })
    }

    /// The flags that lead another command to the same cluster, each after a space; none where there is no cluster.
    pub fn cluster_flags(&self) -> String {
        let temporal = match &self.temporal {
            Temporal::No => return String::new(),
            Temporal::Profile => " --temporal=profile".to_owned(),
            Temporal::At(address) => format!(" --temporal {address}"),
        };
        let namespace = self.of_cluster.namespace.as_ref();
        temporal + &namespace.map_or(String::new(), |name| format!(" --namespace {name}"))
    }

    /// What is shown of a setting of a cluster's.
    pub fn shown_of_cluster(&self, setting: Setting) -> Option<String> {
        let given = &self.of_cluster;
        let file = |file: &Option<PathBuf>| Some(file.as_ref()?.display().to_string());
        match setting {
            Setting::Temporal => Some(self.temporal.to_string()),
            Setting::TemporalProfile => given.profile.clone(),
            Setting::Namespace => given.namespace.clone(),
            Setting::TlsServerName => given.tls_server_name.clone(),
            Setting::TlsCa => file(&given.tls_ca),
            Setting::TlsCert => file(&given.tls_cert),
            Setting::TlsKey => file(&given.tls_key),
            Setting::ApiKeyFile => file(&given.api_key_file),
            _ => None,
        }
    }

    pub(super) fn take_cluster_flags(&mut self, flags: &ClusterArgs) {
        self.flag(Setting::Temporal, &flags.temporal, |s, v| s.temporal = v);
        self.flag(Setting::TemporalProfile, &flags.temporal_profile, |s, v| {
            s.of_cluster.profile = Some(v)
        });
        self.flag(Setting::Namespace, &flags.namespace, |s, v| {
            s.of_cluster.namespace = Some(v)
        });
        self.flag(Setting::TlsServerName, &flags.tls_server_name, |s, v| {
            s.of_cluster.tls_server_name = Some(v)
        });
        let files = [
            (Setting::TlsCa, &flags.tls_ca),
            (Setting::TlsCert, &flags.tls_cert),
            (Setting::TlsKey, &flags.tls_key),
            (Setting::ApiKeyFile, &flags.api_key_file),
        ];
        for (setting, file) in files {
            self.flag(setting, file, |s, v| {
                if let Some(place) = s.cluster_file(setting) {
                    *place = Some(v);
                }
            });
        }
    }

    /// A flag of a cluster where none is asked for: a job would run here that was meant for there.
    pub(super) fn must_be_of_use(&self) -> Option<SettingsError> {
        if self.temporal != Temporal::No {
            return None;
        }
        let setting = OF_A_CLUSTER
            .into_iter()
            .find(|setting| self.origin(*setting) == Some(&Origin::Flag))?;
        Some(SettingsError::Value {
            setting,
            origin: Origin::Flag,
            rule: "it is of a Temporal cluster, and none is asked for (--temporal)".to_owned(),
        })
    }

    /// Where one of the files of a cluster is kept.
    pub(super) fn cluster_file(&mut self, setting: Setting) -> Option<&mut Option<PathBuf>> {
        let given = &mut self.of_cluster;
        Some(match setting {
            Setting::TlsCa => &mut given.tls_ca,
            Setting::TlsCert => &mut given.tls_cert,
            Setting::TlsKey => &mut given.tls_key,
            Setting::ApiKeyFile => &mut given.api_key_file,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_port_and_what_is_none_is_refused() {
        for text in ["localhost:7233", "http://[::1]:7233", "https://a.example.net:443"] {
            assert_eq!(text.parse::<Temporal>(), Ok(Temporal::At(text.to_owned())));
        }
        for text in [
            "",
            "localhost",
            "audio_downloads",
            "host:port",
            "host:99999",
            ":7233",
            "u:p@host:7233",
        ] {
            assert!(text.parse::<Temporal>().is_err(), "{text}");
        }
        for (text, meant) in [
            ("no", Temporal::No),
            ("true", Temporal::Profile),
            ("profile", Temporal::Profile),
        ] {
            assert_eq!(text.parse::<Temporal>(), Ok(meant));
        }
    }
}
