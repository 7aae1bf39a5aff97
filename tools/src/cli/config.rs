//! `--config FILE`: a TOML file for what flags say. Its keys become flags at the end of the command
//! line, except where the command line has the flag already; so a value from the file is checked
//! and explained exactly as a flag's would be.
//!
//! Keys at the top are the flags of every command; a section `[train.sparse-lr]` has those of
//! `windlass train sparse-lr`. Sections of other commands are checked for spelling and left alone.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgAction, ArgMatches, Command, parser::ValueSource};
use toml::{Table, Value};

/// Why a config file is not used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read the config file {}: check the path after --config", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It is not TOML.
    #[error("the config file {} is not TOML: {source}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// It names a flag or a command that does not exist.
    #[error("{}: {key:?} is no flag or command of `{command}`: it has {known}", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The command whose section it stands in.
        command: String,
        /// What could stand there.
        known: String,
    },
    /// A value cannot be a flag's value.
    #[error("{}: {key} must be {expected}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What it may be.
        expected: &'static str,
    },
}

/// Adds to a command line what the config file it names says.
pub fn expand(
    command: &Command,
    mut arguments: Vec<OsString>,
) -> Result<Vec<OsString>, ConfigError> {
    // Flags that the file will supply are still missing here: read what can be read.
    let lenient = command.clone().ignore_errors(true).try_get_matches_from(&arguments);
    let Ok(matches) = lenient else { return Ok(arguments) };
    let Some(path) = config_path(&matches) else { return Ok(arguments) };
    let text = fs::read_to_string(&path)
        .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
    let file: Table = text
        .parse()
        .map_err(|source| ConfigError::Syntax { path: path.clone(), source: Box::new(source) })?;
    let mut flags = Vec::new();
    collect(&Place { path: &path, command, title: "windlass" }, &file, Some(&matches), &mut flags)?;
    // Before a `--`, after which nothing is a flag.
    let end = arguments.iter().position(|word| word == "--").unwrap_or(arguments.len());
    arguments.splice(end..end, flags);
    Ok(arguments)
}

/// The value of `--config`, wherever on the line it stands.
fn config_path(matches: &ArgMatches) -> Option<PathBuf> {
    let here = matches.try_get_one::<PathBuf>("config").ok().flatten().cloned();
    here.or_else(|| config_path(matches.subcommand()?.1))
}

struct Place<'a> {
    path: &'a Path,
    command: &'a Command,
    title: &'a str,
}

/// Turns the keys of one section into flags. `matches` is what the command line says for the same
/// command; `None` if another command runs.
fn collect(
    place: &Place<'_>,
    section: &Table,
    matches: Option<&ArgMatches>,
    flags: &mut Vec<OsString>,
) -> Result<(), ConfigError> {
    for (key, value) in section {
        if let (Value::Table(inner), Some(command)) = (value, place.command.find_subcommand(key)) {
            let inner_matches = matches
                .and_then(ArgMatches::subcommand)
                .filter(|(name, _)| *name == command.get_name())
                .map(|(_, matches)| matches);
            let title = format!("{} {key}", place.title);
            collect(&Place { command, title: &title, ..*place }, inner, inner_matches, flags)?;
            continue;
        }
        let argument = place
            .command
            .get_arguments()
            .find(|argument| argument.get_long() == Some(key) && key != "config")
            .ok_or_else(|| unknown_key(place, key))?;
        let words = flag_words(place, argument, key, value)?;
        let is_given = |matches: &ArgMatches| {
            matches.try_contains_id(argument.get_id().as_str()).is_ok()
                && matches.value_source(argument.get_id().as_str())
                    == Some(ValueSource::CommandLine)
        };
        if matches.is_some_and(|matches| !is_given(matches)) {
            flags.extend(words);
        }
    }
    Ok(())
}

fn flag_words(
    place: &Place<'_>,
    argument: &Arg,
    key: &str,
    value: &Value,
) -> Result<Vec<OsString>, ConfigError> {
    let wrong = |expected| ConfigError::Value {
        path: place.path.to_owned(),
        key: key.to_owned(),
        expected,
    };
    match (argument.get_action(), value) {
        (ArgAction::SetTrue, Value::Boolean(is_set)) => {
            Ok(if *is_set { vec![format!("--{key}").into()] } else { vec![] })
        }
        (ArgAction::SetTrue, _) => Err(wrong("true or false")),
        (ArgAction::Count, Value::Integer(count @ 0..=9)) => {
            Ok((0..*count).map(|_| format!("--{key}").into()).collect())
        }
        (ArgAction::Count, _) => Err(wrong("a whole number from 0 to 9")),
        (_, Value::Array(items)) => {
            let words =
                items.iter().map(|item| scalar(item).map(|text| format!("--{key}={text}").into()));
            words.collect::<Option<_>>().ok_or_else(|| wrong("a list of texts or numbers"))
        }
        (_, value) => {
            let text = scalar(value).ok_or_else(|| wrong("a text, a number or a list of them"))?;
            Ok(vec![format!("--{key}={text}").into()])
        }
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Boolean(flag) => Some(flag.to_string()),
        _ => None,
    }
}

fn unknown_key(place: &Place<'_>, key: &str) -> ConfigError {
    let flags = place.command.get_arguments().filter_map(Arg::get_long);
    let flags = flags.filter(|name| !["config", "help", "version"].contains(name));
    let commands = place.command.get_subcommands().map(Command::get_name);
    let known: Vec<&str> = flags.chain(commands).collect();
    ConfigError::UnknownKey {
        path: place.path.to_owned(),
        key: key.to_owned(),
        command: place.title.to_owned(),
        known: known.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use clap::{Parser, Subcommand};

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[arg(long, global = true)]
        json: bool,
        #[arg(long, global = true)]
        config: Option<PathBuf>,
        #[command(subcommand)]
        command: Sub,
    }

    #[derive(Debug, Subcommand)]
    enum Sub {
        Train {
            #[arg(long)]
            data: PathBuf,
            #[arg(long, default_value_t = 1.0)]
            l1: f64,
            #[arg(long)]
            eval: Vec<PathBuf>,
        },
        Serve {
            #[arg(long)]
            listen: Option<String>,
        },
    }

    fn parse(file: &str, line: &[&str]) -> Result<Cli, String> {
        use clap::CommandFactory;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("windlass.toml");
        fs::write(&path, file).unwrap();
        let mut arguments: Vec<OsString> = vec!["windlass".into()];
        arguments.extend(line.iter().map(Into::into));
        arguments.extend(["--config".into(), path.into_os_string()]);
        let arguments = expand(&Cli::command(), arguments).map_err(|error| error.to_string())?;
        Cli::try_parse_from(arguments).map_err(|error| error.to_string())
    }

    #[test]
    fn the_file_supplies_what_the_line_does_not_say() {
        let file = "json = true\n[train]\ndata = 'a.svm'\nl1 = 2.5\neval = ['b', 'c']\n[serve]\nlisten = 'x'\n";
        let cli = parse(file, &["train", "--l1", "9"]).unwrap();
        assert!(cli.json);
        let Sub::Train { data, l1, eval } = cli.command else { panic!() };
        assert_eq!((data.to_str(), l1, eval.len()), (Some("a.svm"), 9.0, 2));
        let Sub::Serve { listen } = parse(file, &["serve"]).unwrap().command else { panic!() };
        assert_eq!(listen.as_deref(), Some("x"));
    }

    #[test]
    fn what_is_wrong_in_the_file_is_named() {
        let error = parse("[train]\ndato = 'x'", &["train"]).unwrap_err();
        assert!(error.contains("\"dato\"") && error.contains("data, l1"), "{error}");
        let error = parse("json = 'yes'", &["serve"]).unwrap_err();
        assert!(error.contains("json must be true or false"), "{error}");
        let error = parse("[train]\nl1 = 'much'", &["train", "--data", "x"]).unwrap_err();
        assert!(error.contains("--l1"), "{error}");
        let error = parse("[trian]\nl1 = 1", &["serve"]).unwrap_err();
        assert!(error.contains("\"trian\"") && error.contains("train, serve"), "{error}");
        assert!(parse("= 1", &["serve"]).unwrap_err().contains("is not TOML"));
    }
}
