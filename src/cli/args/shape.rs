//! The flags that say which rows and columns of a table are copied, and as what.

use clap::Args as ArgGroup;

use crate::table::{ColumnNames, Expression, Renames, Selections};

/// What of a table is copied, and as what.
#[derive(Debug, Clone, Default, ArgGroup)]
pub struct ShapeArgs {
    /// Columns of the source to copy: a,b [env: LONGHAUL_COLUMNS] [default: all of them]
    #[arg(long, value_name = "NAMES")]
    pub columns: Option<ColumnNames>,
    /// Rows to copy, an SQL condition on the source: 'id > 5' [env: LONGHAUL_WHERE] [default: all of them]
    #[arg(long = "where", value_name = "SQL", allow_hyphen_values = true)]
    pub filter: Option<Expression>,
    /// Columns with another name on the target: a=b,c=d [env: LONGHAUL_RENAME] [default: none]
    #[arg(long, value_name = "A=B")]
    pub rename: Option<Renames>,
    /// Columns filled by SQL on the source: 'email=md5(email),n=1' [env: LONGHAUL_SELECT] [default: none]
    #[arg(long, value_name = "COLUMN=SQL")]
    pub select: Option<Selections>,
}

impl ShapeArgs {
    /// Whether any of them was given.
    pub fn is_given(&self) -> bool {
        let Self {
            columns,
            filter,
            rename,
            select,
        } = self;
        columns.is_some() || filter.is_some() || rename.is_some() || select.is_some()
    }
}
