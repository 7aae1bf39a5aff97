//! `windlass table {create,list,show,scan,remove,set,drop}`.

use serde::{Deserialize, Serialize};
use windlass_client::{
    Aggregation, Client, Consistency, DataType, Durability, Expiry, Initializer, TableEntry,
    TableKind, TableSchema, UpdateRule,
};

use windlass_engine::shard::TableUsage;
use windlass_wire::{map::ServerState, rule::RuleDescription};

use super::{
    ExitStatus, Failure, Output, aggregation, connection::ConnectionArguments, consistency, remove,
    scan,
};
use crate::{
    control::Control,
    remote::{self, RemoteError},
    report::{table as report, units},
};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum TableCommand {
    /// Create a table; one that is there with the same schema is left as it is
    Create(CreateArguments),
    /// List the tables
    List {
        #[command(flatten)]
        connection: ConnectionArguments,
    },
    /// Show a table's schema, its rows and the memory they take
    Show {
        /// The table
        name: String,
        #[command(flatten)]
        connection: ConnectionArguments,
    },
    /// List the rows of a sparse table, a part at a time, while others push
    Scan(scan::Arguments),
    /// Remove rows of a sparse table, with their optimiser state, while others push
    Remove(remove::Arguments),
    /// Change a table that is in use
    Set(SetArguments),
    /// Drop a table with all its rows
    Drop {
        /// The table
        name: String,
        #[command(flatten)]
        connection: ConnectionArguments,
    },
}

fn create_help() -> String {
    let rule = |rule: &RuleDescription| {
        format!("  {:8} {}\n           keys: {}", rule.name, rule.help, rule.keys())
    };
    let rules: Vec<String> = UpdateRule::ALL.iter().map(rule).collect();
    format!(
        "Rules, and the keys each may be given, as in sgd:lr=0.1,momentum=0.9:\n{}\n  \
         adamw is adam with decoupled=true\n  \
         clip cuts a gradient's values, clip_norm shortens a row's gradient, min and max bound weights\n\nExamples:\n  \
         windlass table create weights --rows 1000000 --rule sgd:lr=0.1\n  \
         windlass table create embedding --width 64 --rule adagrad:lr=0.05 --initializer normal:0,0.02   (sparse)",
        rules.join("\n")
    )
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    windlass table set weights learning_rate=0.01\n  \
    windlass table set weights lr=0.01 momentum=0.95\n  \
    windlass table set weights --consistency bounded:4\n  \
    windlass table set embedding --expiry age:30d")]
#[group(id = "change", required = true, multiple = true, args = ["parameters", "consistency", "expiry"])]
pub(crate) struct SetArguments {
    /// The table
    name: String,
    /// Hyper-parameters of its rule: pushes acknowledged before went by the old values, pushes sent
    /// later go by the new ones
    #[arg(value_name = "KEY=VALUE")]
    parameters: Vec<String>,
    /// How far its workers may be apart from now on: sequential, bounded:N or eventual
    #[arg(long, value_name = "MODEL", value_parser = consistency::parse)]
    consistency: Option<Consistency>,
    /// Which of its rows go by themselves from now on, as for `create`; a table that was created without says never
    #[arg(long, value_name = "WHICH")]
    expiry: Option<Expiry>,
    #[command(flatten)]
    connection: ConnectionArguments,
}

#[derive(Debug, clap::Args)]
#[command(after_help = create_help())]
pub(crate) struct CreateArguments {
    /// The table
    name: String,
    /// Rows of a dense table; without it the table is sparse, and any key is a row
    #[arg(long, value_name = "N")]
    rows: Option<u64>,
    /// Values of a row
    #[arg(long, value_name = "N", default_value_t = 1)]
    width: u32,
    /// Type of a value: f32, f64, f16, bf16, i8, i32, i64 or u64
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    dtype: DataType,
    /// What a push does to a row
    #[arg(long, value_name = "RULE", default_value = "add")]
    rule: UpdateRule,
    /// What rows of a sparse table begin with: zero, constant:VALUE, uniform:LOW,HIGH, normal:MEAN,DEVIATION or
    /// truncated-normal:MEAN,DEVIATION (cut at two deviations), the last three also with ,seed=N
    #[arg(long, value_name = "VALUES", default_value = "zero", allow_hyphen_values = true)]
    initializer: Initializer,
    /// Which rows of a sparse table go by themselves: never, age:TIME (nothing was pushed to them for that long, such as
    /// 90s, 30m, 12h or 7d of service), rows:COUNT (the oldest of more than that), or age:TIME,rows:COUNT
    #[arg(long, value_name = "WHICH", default_value = "never")]
    expiry: Expiry,
    /// When a push is acknowledged: memory, interval:MS (on disk within MS milliseconds) or sync (on
    /// disk); the last two need servers with --data-dir
    #[arg(long, value_name = "LEVEL", value_parser = durability, default_value = "memory")]
    durability: Durability,
    /// How far workers with a rank may be apart: sequential, bounded:N (rounds) or eventual
    #[arg(long, value_name = "MODEL", value_parser = consistency::parse, default_value = "eventual")]
    consistency: Consistency,
    /// When pushes are applied: immediate, or rounds[:M][:fold], where the pushes of a worker clock are
    /// summed until all workers with a rank (or M) have finished it; late ones are dropped or, with
    /// fold, count in the next round
    #[arg(long, value_name = "MODE", value_parser = aggregation::parse, default_value = "immediate")]
    aggregation: Aggregation,
    #[command(flatten)]
    connection: ConnectionArguments,
}

/// What `--json` prints of a table.
#[derive(Serialize)]
struct TableResult {
    name: String,
    id: u32,
    kind: &'static str,
    rows: Option<u64>,
    width: u32,
    dtype: &'static str,
    rule: String,
    initializer: String,
    expiry: String,
    consistency: String,
    aggregation: String,
    replicas: u8,
    durability: String,
    /// When rows in memory only last went with a server's restart, in seconds since 1970.
    emptied: Option<u64>,
    /// Of `table show`.
    #[serde(flatten)]
    usage: Option<Usage>,
}

/// Rows of a table, and the memory that all servers use for them.
#[derive(Serialize)]
struct Usage {
    /// Rows there are, each counted once.
    row_count: u64,
    /// Bytes of values, optimiser state and index of all replicas.
    memory_bytes: u64,
    /// How full the index of a sparse table is, from 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    index_load: Option<f64>,
    /// Servers that did not say what they have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unheard: Vec<u32>,
}

impl Usage {
    /// Asks all servers of the map that are there.
    fn of(client: &Client, table: u32) -> Self {
        let (mut all, mut unheard) = (TableUsage::default(), Vec::new());
        let map = client.map();
        let there = map.servers.iter().filter(|server| server.state != ServerState::Down);
        for server in there {
            let told = client.server_statistics(server.id).ok();
            let told = told.and_then(|json| serde_json::from_str::<Statistics>(&json).ok());
            let Some(told) = told else {
                unheard.push(server.id.0);
                continue;
            };
            let of_table = told.tables.iter().filter(|usage| usage.table == table);
            of_table.for_each(|usage| all.merge(usage));
        }
        let has_index = all.index_slots > 0;
        let index_load = has_index.then(|| all.index_keys as f64 / all.index_slots as f64);
        Self { row_count: all.rows, memory_bytes: all.bytes, index_load, unheard }
    }
}

/// What is read of a server's statistics.
#[derive(Deserialize)]
struct Statistics {
    tables: Vec<TableUsage>,
}

#[derive(Serialize)]
struct Dropped<'a> {
    dropped: &'a str,
}

pub(crate) fn run(command: &TableCommand, output: Output) -> Result<(), Failure> {
    match command {
        TableCommand::Create(arguments) => create(arguments, output),
        TableCommand::List { connection } => {
            let client = connect(connection)?;
            let mut tables: Vec<TableResult> = client
                .list_tables()
                .map_err(remote)?
                .iter()
                .map(|entry| TableResult::of(entry, &client))
                .collect();
            note_emptied(connection, &mut tables)?;
            output.result(&tables, || list_text(&tables))
        }
        TableCommand::Show { name, connection } => {
            let client = connect(connection)?;
            let mut table = TableResult::of(&find(&client, name)?, &client);
            note_emptied(connection, std::slice::from_mut(&mut table))?;
            table.usage = Some(Usage::of(&client, table.id));
            output.result(&table, || show_text(&table))
        }
        TableCommand::Scan(arguments) => scan::run(arguments, output),
        TableCommand::Remove(arguments) => remove::run(arguments, output),
        TableCommand::Set(arguments) => set(arguments, output),
        TableCommand::Drop { name, connection } => {
            let client = connect(connection)?;
            client.drop_table(name).map_err(remote)?;
            output.result(&Dropped { dropped: name }, || format!("table {name} is dropped"))
        }
    }
}

/// Tells which tables lost rows with a restart, as far as a coordinator answers.
fn note_emptied(
    arguments: &ConnectionArguments,
    tables: &mut [TableResult],
) -> Result<(), Failure> {
    let connection = arguments.connection()?;
    let control = Control::connect(&connection.address, connection.token.as_deref());
    let Ok(status) = control.and_then(|mut control| control.status()) else { return Ok(()) };
    for table in tables {
        let of = status.emptied.iter().filter(|one| one.table.0 == table.id);
        table.emptied = of.map(|one| one.seconds).max();
    }
    Ok(())
}

fn create(arguments: &CreateArguments, output: Output) -> Result<(), Failure> {
    let kind = match arguments.rows {
        Some(rows) => TableKind::Dense { rows },
        None => TableKind::Sparse {},
    };
    let schema = TableSchema {
        kind,
        rule: arguments.rule,
        durability: arguments.durability,
        consistency: arguments.consistency,
        aggregation: arguments.aggregation,
        initializer: arguments.initializer,
        expiry: arguments.expiry,
        ..TableSchema::sparse(arguments.dtype, arguments.width)
    };
    schema.validate().map_err(|error| Failure::new(ExitStatus::Usage, error))?;
    let client = connect(&arguments.connection)?;
    let entry = crate::element::with_dtype!(arguments.dtype, T => {
        client.create_table::<T>(&arguments.name, &schema).map(drop)
    })
    .map_err(remote)
    .and_then(|()| find(&client, &arguments.name))?;
    let table = TableResult::of(&entry, &client);
    output.result(&table, || show_text(&table))
}

fn set(arguments: &SetArguments, output: Output) -> Result<(), Failure> {
    let (client, name) = (connect(&arguments.connection)?, &arguments.name);
    let mut entry = find(&client, name)?;
    if !arguments.parameters.is_empty() {
        let parameters = arguments.parameters.join(",");
        entry = client.set_hyper_parameters(name, &parameters).map_err(remote)?;
    }
    if let Some(consistency) = arguments.consistency {
        entry = client.set_consistency(name, consistency).map_err(remote)?;
    }
    if let Some(expiry) = arguments.expiry {
        entry = client.set_expiry(name, expiry).map_err(remote)?;
    }
    let table = TableResult::of(&entry, &client);
    output.result(&table, || show_text(&table))
}

/// Connects, with the exit code that tells why not.
pub(crate) fn connect(arguments: &ConnectionArguments) -> Result<Client, Failure> {
    remote::connect(&arguments.connection()?).map_err(remote)
}

/// The failure that an error of the servers is.
pub(crate) fn remote(error: impl Into<RemoteError>) -> Failure {
    let error = error.into();
    let status = if error.is_unreachable() { ExitStatus::Unreachable } else { ExitStatus::Failed };
    Failure::new(status, error)
}

/// The table of that name, or what there is instead.
pub(crate) fn find(client: &Client, name: &str) -> Result<TableEntry, Failure> {
    let tables = client.list_tables().map_err(remote)?;
    let names: Vec<String> = tables.iter().map(|table| table.name.clone()).collect();
    tables.into_iter().find(|table| table.name == name).ok_or_else(|| {
        let there = if names.is_empty() {
            "there are none; `windlass table create` makes one".to_owned()
        } else {
            format!("there are {}", names.join(", "))
        };
        Failure::failed(format!("there is no table {name:?}: {there}"))
    })
}

impl TableResult {
    fn of(entry: &TableEntry, client: &Client) -> Self {
        let schema = &entry.schema;
        let (kind, rows) = match schema.kind {
            TableKind::Dense { rows } => ("dense", Some(rows)),
            TableKind::Sparse {} => ("sparse", None),
        };
        Self {
            name: entry.name.clone(),
            id: entry.id.0,
            kind,
            rows,
            width: schema.width,
            dtype: schema.dtype.name(),
            rule: schema.rule.to_string(),
            initializer: schema.initializer.to_string(),
            expiry: schema.expiry.to_string(),
            consistency: consistency::text(schema.consistency),
            aggregation: aggregation::text(schema.aggregation),
            // All tables of a cluster have as many.
            replicas: client.map().replicas.max(1),
            durability: match schema.durability {
                Durability::Memory {} => "memory".to_owned(),
                Durability::Interval { milliseconds } => format!("interval:{milliseconds}"),
                Durability::Sync {} => "sync".to_owned(),
            },
            emptied: None,
            usage: None,
        }
    }

    fn shape(&self) -> String {
        let rows = self.rows.map_or("any key".to_owned(), |rows| rows.to_string());
        format!("{rows} x {}", self.width)
    }
}

pub(super) fn durability(text: &str) -> Result<Durability, String> {
    let interval = text.strip_prefix("interval:").map(str::parse::<u32>);
    match (text, interval) {
        ("memory", _) => Ok(Durability::Memory {}),
        ("sync", _) => Ok(Durability::Sync {}),
        (_, Some(Ok(milliseconds @ 1..))) => Ok(Durability::Interval { milliseconds }),
        _ => Err("use memory, sync, or interval:MS with MS milliseconds from 1".to_owned()),
    }
}

fn list_text(tables: &[TableResult]) -> String {
    if tables.is_empty() {
        return "no tables; `windlass table create` makes one".to_owned();
    }
    let row = |table: &TableResult| {
        let note = table.emptied.map_or("", |_| "emptied by a restart: durability memory");
        let shape = table.shape();
        vec![table.name.clone(), shape, table.dtype.to_owned(), table.rule.clone(), note.to_owned()]
    };
    report::table(
        &["table", "rows x width", "dtype", "rule", ""],
        &tables.iter().map(row).collect::<Vec<_>>(),
    )
}

fn show_text(table: &TableResult) -> String {
    let mut facts = vec![
        ("table", table.name.clone()),
        ("kind", table.kind.to_owned()),
        ("rows x width", table.shape()),
        ("dtype", table.dtype.to_owned()),
        ("rule", table.rule.clone()),
        ("rows begin with", table.initializer.clone()),
        ("consistency", table.consistency.clone()),
        ("aggregation", table.aggregation.clone()),
        ("replicas", table.replicas.to_string()),
        ("durability", table.durability.clone()),
        ("rows lost by a restart", table.emptied.map_or("none so far".to_owned(), units::moment)),
    ];
    if table.expiry != "never" {
        facts.push(("rows expire", table.expiry.clone()));
    }
    if let Some(usage) = &table.usage {
        facts.push(("rows", usage.row_count.to_string()));
        facts.push(("memory, all servers", units::bytes(usage.memory_bytes as f64)));
        if let Some(load) = usage.index_load {
            facts.push(("index", format!("{:.0} % full", load * 100.0)));
        }
        if !usage.unheard.is_empty() {
            let servers: Vec<String> = usage.unheard.iter().map(u32::to_string).collect();
            facts.push((
                "not counted",
                format!("server {}, which did not answer", servers.join(", ")),
            ));
        }
    }
    report::facts(&facts)
}
