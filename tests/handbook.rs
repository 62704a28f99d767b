//! `sql/README.md` from the first line to the last, as its reader would go through it: every example runs, shows what the text says
//! that it shows, and tells the users that the text says are told, and nobody else.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use parkmate_notifier::store::Store;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::support::{Database, Service, Socket, database, eventually};

const HANDBOOK: &str = include_str!("../sql/README.md");

/// Who nobody is told of by mistake, besides those the text names.
const BYSTANDERS: [&str; 5] = ["3", "4", "7", "8", "900"];

/// An example: a block of SQL, and the block of text right after it.
struct Example {
    line: usize,
    sql: String,
    shows: Option<Shows>,
}

/// What the text says comes of it. `…` stands for anything but nothing.
enum Shows {
    /// The result of its last SELECT: the heading and the rows.
    Table(Vec<Vec<String>>),
    /// How it is refused: `ERROR`, `DETAIL` and `HINT`, those that are shown.
    Refusal(Vec<(String, String)>),
    /// Users and messages.
    Told(Vec<(String, String)>),
}

impl Example {
    /// Whether the application runs it, and not the reader.
    fn is_written_by_the_application(&self) -> bool {
        self.sql.starts_with("-- the application writes:")
    }
}

fn examples() -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let mut lines = HANDBOOK.lines().enumerate();
    // Whether the block of SQL before this line is the last thing that was said.
    let mut follows = false;
    while let Some((number, line)) = lines.next() {
        let Some(language) = line.strip_prefix("```") else {
            follows &= line.is_empty();
            continue;
        };
        let block: Vec<&str> = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
        match language {
            "sql" => examples.push(Example { line: number + 1, sql: block.join("\n"), shows: None }),
            "text" => {
                assert!(follows, "line {}: a text of no example", number + 1);
                examples.last_mut().unwrap().shows = Some(shows(&block));
            }
            "sh" => {}
            other => panic!("line {}: a block of {other:?}", number + 1),
        }
        follows = language == "sql";
    }
    examples
}

fn shows(block: &[&str]) -> Shows {
    let pair = |line: &str, separator: &str| {
        let (one, other) = line.split_once(separator).unwrap_or_else(|| panic!("no {separator:?} in {line:?}"));
        (one.trim().to_owned(), other.trim().to_owned())
    };
    if block[0] == "to nobody" {
        Shows::Told(Vec::new())
    } else if block[0].starts_with("to ") {
        Shows::Told(block.iter().map(|line| pair(line.strip_prefix("to ").unwrap(), ": ")).collect())
    } else if block[0].starts_with("ERROR:") {
        Shows::Refusal(block.iter().map(|line| pair(line, ":")).collect())
    } else {
        assert!(block[1].starts_with("--"), "no table: {block:?}");
        let cells = |line: &&str| line.split('|').map(|cell| cell.trim().to_owned()).collect();
        Shows::Table(block.iter().enumerate().filter(|(index, _)| *index != 1).map(|(_, line)| cells(line)).collect())
    }
}

/// Whether a text is what the handbook shows of it.
fn is(shown: &str, text: &str) -> bool {
    match shown.split_once('…') {
        None => shown == text,
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| {
            rest.char_indices().any(|(index, letter)| is(after, &rest[index + letter.len_utf8()..]))
        }),
    }
}

/// The last result that had rows to show, headed by the names of its columns.
async fn last_table(client: &Client, sql: &str) -> Result<Vec<Vec<String>>, tokio_postgres::Error> {
    let mut tables: Vec<Vec<Vec<String>>> = Vec::new();
    for message in client.simple_query(sql).await? {
        match message {
            SimpleQueryMessage::RowDescription(columns) => {
                tables.push(vec![columns.iter().map(|column| column.name().to_owned()).collect()]);
            }
            SimpleQueryMessage::Row(row) => {
                let cells = (0..row.len()).map(|index| row.get(index).unwrap_or_default().trim().to_owned()).collect();
                tables.last_mut().unwrap().push(cells);
            }
            _ => {}
        }
    }
    Ok(tables.pop().unwrap_or_default())
}

/// The reader's database: an application somebody else made, and `notifier` with nothing defined.
async fn somebody_elses_database() -> Database {
    let database = Database::empty().await;
    database.run(include_str!("handbook/tables.sql")).await;
    database::load_parkmate(&database.owner).await;
    Store::new(&database.url().parse().unwrap(), 2).unwrap().migrate().await.unwrap();
    database
}

/// Waits until the service has nothing left to do, so that whoever is to be told is told.
async fn all_is_told(database: &Database) {
    eventually("nothing waits to be told", || async {
        database
            .one::<bool>(
                "select not exists (select from notifier.timer where due_at <= now() and barrier is null)
                    and not exists (select from notifier.scheduled where send_at <= now())
                    and not exists (select from notifier.spill)",
            )
            .await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_of_the_handbook_does_what_the_handbook_says() {
    let examples = examples();
    let database = somebody_elses_database().await;
    let service = Service::on(&database).await;
    let told = examples.iter().filter_map(|example| match &example.shows {
        Some(Shows::Told(told)) => Some(told.iter().map(|(user, _)| user.as_str())),
        _ => None,
    });
    let users: BTreeSet<&str> = told.flatten().chain(BYSTANDERS).collect();
    let mut sockets = BTreeMap::new();
    for user in users {
        sockets.insert(user, Socket::open(service.address, user).await);
    }

    for example in &examples {
        let place = format!("sql/README.md:{}\n{}\n", example.line, example.sql);
        if example.sql.contains("delivered") {
            join_all(sockets.values_mut().map(|socket| {
                let waits = format!(
                    "select exists (select from notifier.notification where user_id = '{}' and delivered_at is null)",
                    socket.user
                );
                let database = &database;
                socket.meanwhile(async move {
                    eventually("all is confirmed", || async { !database.one::<bool>(&waits).await }).await;
                })
            }))
            .await;
        }
        let client = if example.is_written_by_the_application() { &database.app } else { &database.owner };
        database.forget_slowness().await;
        let result = Socket::meanwhile_all(sockets.values_mut(), last_table(client, &example.sql)).await;
        if let Some(Shows::Refusal(shown)) = &example.shows {
            let error = result.expect_err(&place);
            let error = error.as_db_error().unwrap_or_else(|| panic!("{place}{error}"));
            for (part, shown) in shown {
                let said = match part.as_str() {
                    "ERROR" => Some(error.message()),
                    "DETAIL" => error.detail(),
                    "HINT" => error.hint(),
                    part => panic!("{place}is shown a {part}"),
                };
                let said = said.unwrap_or_else(|| panic!("{place}says no {part}"));
                assert!(is(shown, said), "{place}shows {part}: {shown}\nsays {part}: {said}");
            }
            continue;
        }
        let table = result.unwrap_or_else(|error| panic!("{place}{error:?}"));
        match &example.shows {
            Some(Shows::Table(shown)) => {
                let same = shown.len() == table.len()
                    && shown.iter().zip(&table).all(|(shown, row)| {
                        shown.len() == row.len() && shown.iter().zip(row).all(|(shown, cell)| is(shown, cell))
                    });
                let lines =
                    |table: &[Vec<String>]| table.iter().map(|row| row.join(" | ")).collect::<Vec<_>>().join("\n");
                assert!(same, "{place}shows\n{}\nand gives\n{}", lines(shown), lines(&table));
            }
            Some(Shows::Told(shown)) => {
                let mut expected: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
                for (user, message) in shown {
                    expected.entry(user).or_default().push(message);
                }
                for (user, expected) in &mut expected {
                    let socket = sockets.get_mut(user).unwrap();
                    while !expected.is_empty() {
                        let frame = socket.frame().await;
                        let message = frame["message"].as_str().unwrap();
                        let index = expected.iter().position(|shown| is(shown, message));
                        expected.remove(index.unwrap_or_else(|| panic!("{place}tells {user}: {message}")));
                    }
                }
                Socket::meanwhile_all(sockets.values_mut(), all_is_told(&database)).await;
                join_all(sockets.values_mut().map(|socket| socket.nothing_but_a_marker(&database))).await;
            }
            Some(Shows::Refusal(_)) | None => {}
        }
    }

    // What nobody had a socket for would be in the table all the same.
    let others = format!(
        "select count(*) from notifier.notification where user_id <> all ('{{{}}}')",
        sockets.keys().copied().collect::<Vec<_>>().join(",")
    );
    assert_eq!(database.one::<i64>(&others).await, 0);
}

/// The functions that roles may call, as `grant_roles` names them, with the arguments that they have.
#[tokio::test(flavor = "multi_thread")]
async fn the_handbook_names_every_function_with_its_arguments() {
    let grants = include_str!("../sql/functions/define/grant_roles.sql");
    let (public, _) = grants.split_once("to_regrole('notifier_service')").unwrap();
    let functions: Vec<&str> = public.lines().filter_map(|line| line.trim().strip_prefix("notifier.")).collect();
    assert!(functions.len() > 10, "{functions:?}");
    let database = Database::new().await;
    let (_, reference) = HANDBOOK.split_once("\n## Reference\n").unwrap();
    for function in functions {
        let name = function.split('(').next().unwrap();
        let arguments: String = database
            .one(&format!(
                "select coalesce(array_to_string(proargnames[: pronargs], ', '), '') from pg_proc
                 where pronamespace = 'notifier'::regnamespace and proname = '{name}'"
            ))
            .await;
        assert!(reference.contains(&format!("`{name}({arguments})`")), "no `{name}({arguments})`");
    }
}

#[test]
fn every_link_of_the_handbook_leads_somewhere() {
    let anchors: Vec<String> = HANDBOOK
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-").replace(',', ""))
        .collect();
    let links: Vec<&str> = HANDBOOK.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()).collect();
    assert!(links.len() > 3);
    for link in links {
        match link.strip_prefix('#') {
            Some(anchor) => assert!(anchors.iter().any(|heading| heading == anchor), "no heading #{anchor}"),
            None => {
                let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("sql").join(link);
                assert!(path.exists(), "no file {link}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_event_that_the_front_page_adds_is_told() {
    let (_, section) = include_str!("../README.md").split_once("## Add an event\n").unwrap();
    let (_, block) = section.split_once("```sql\n").unwrap();
    let (definition, _) = block.split_once("```").unwrap();
    let database = Database::new().await;
    database.run(definition).await;
    let service = Service::on(&database).await;
    let mut driver = Socket::open(service.address, "8").await;
    database.write("update booking set end_time = end_time + interval '1 hour' where id = 104").await;
    let frame = driver.frame().await;
    assert_eq!((&frame["event"], &frame["data"]["booking_id"]), (&"booking.moved".into(), &104.into()), "{frame}");
    driver.nothing_but_a_marker(&database).await;
}
