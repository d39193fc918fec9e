//! (skeleton: signatures are the contract)
/// What `status` tells, in one form: rows of cells, from which table, JSON and Prometheus text are made.
#[derive(Default)]
pub struct Report {
    /// Column names: lower case with `_`.
    pub columns: Vec<&'static str>,
    /// One entry a row.
    pub rows: Vec<Vec<Cell>>,
    /// Prometheus name prefix, e.g. `zsnap_queue`; numeric columns become `PREFIX_COLUMN{labels}` with the text columns as labels.
    pub metric: &'static str,
}
/// One value.
pub enum Cell {
    /// Text, shown escaped.
    Text(String),
    /// A count.
    Count(u64),
    /// Bytes, shown as 1.5 MiB in the table.
    Bytes(u64),
    /// Seconds, shown as 3d 4h in the table.
    Age(u64),
    /// Unknown or not applicable: `-`, `null`, left out.
    None,
}
/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Table,
    /// An array of objects.
    Json,
    /// Text exposition format.
    Prometheus,
}
impl Report {
    /// Writes to stdout; EPIPE is an error, not a panic.
    pub fn print(&self, _form: Form) -> std::io::Result<()> {
        unimplemented!()
    }
}
