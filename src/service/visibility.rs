//! Listing and counting workflows: the open ones from memory, the closed ones from their list in the journal, both in the
//! order of their starts, so that a page costs what is on it and what the filter passes over.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use prost::Message;
use temporalio_protos::temporal::api::workflowservice::v1::{
    CountWorkflowExecutionsRequest, CountWorkflowExecutionsResponse, ListWorkflowExecutionsRequest,
    ListWorkflowExecutionsResponse,
};
use tonic::Status;

use super::core::Core;
use super::filter::{Filter, Known};
use super::frontend::execution_info;
use super::history::{RunRecord, RunState};
use super::journal::{JournalError, Store, listed_key, listed_range, listed_run};
use super::stored::read_closed_record;
use super::{NAMESPACE, Service, journal_status};

/// Workflows on a page, unless the client wants fewer.
const MAX_PAGE: usize = 1000;
/// Entries of the list of closed runs that are read at a time.
const SCANNED: usize = 1000;

/// What a list asks of a closed run, beside what is in its key.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Listed {
    #[prost(string, tag = "1")]
    pub workflow_id: String,
    #[prost(string, tag = "2")]
    pub workflow_type: String,
    #[prost(string, tag = "3")]
    pub task_queue: String,
    #[prost(int32, tag = "4")]
    pub status: i32,
    #[prost(int64, tag = "5")]
    pub close_ms: i64,
    /// When it was to begin; 0 where nobody wrote it down.
    #[prost(int64, tag = "6")]
    pub execution_ms: i64,
}

impl Listed {
    pub fn of(run: &RunRecord) -> Self {
        Self {
            workflow_id: run.workflow_id.clone(),
            workflow_type: run.workflow_type.clone(),
            task_queue: run.task_queue.clone(),
            status: run.status,
            close_ms: run.close_ms,
            execution_ms: run.execution_ms,
        }
    }
}

/// Where a run stands in a list: those that started last come first; the run id makes the order total, so that pages join up.
type Place = (Reverse<i64>, String);

/// What a client asks for.
struct Wanted {
    namespace: String,
    filter: Filter,
}

impl Wanted {
    fn of(namespace: String, query: &str) -> Result<Self, Status> {
        if namespace != NAMESPACE {
            return Err(Status::not_found(format!("namespace {namespace} is not found")));
        }
        let refused =
            |why| Status::invalid_argument(format!("the filter `{query}` is not understood: {why}"));
        let filter = Filter::parse(query).map_err(refused)?;
        Ok(Self { namespace, filter })
    }

    /// Open runs behind a place, at most `limit`.
    fn open(&self, core: &Core, after: Option<&Place>, limit: usize) -> Vec<(Place, RunState)> {
        let namespace = self.namespace.clone();
        let low = match after {
            Some((start, run_id)) => Bound::Excluded((namespace, *start, run_id.clone())),
            None => Bound::Included((namespace, Reverse(i64::MAX), String::new())),
        };
        let started = core.started.range((low, Bound::Unbounded));
        let started = started.take_while(|(namespace, ..)| *namespace == self.namespace);
        let runs = started.filter_map(|(_, start, run_id)| {
            let run = core.runs.get(run_id)?;
            let place = (*start, run_id.clone());
            let holds = self.filter.holds(&Known::of(run_id, start.0, &Listed::of(run)));
            holds.then(|| (place, run.clone()))
        });
        runs.take(limit).collect()
    }

    /// Closed runs behind a place, at most `limit`.
    fn closed(&self, store: &Store, after: Option<&Place>, limit: usize) -> Result<Vec<Place>, JournalError> {
        let (mut low, high) = listed_range(&self.namespace);
        if let Some((Reverse(start_ms), run_id)) = after {
            low = listed_key(&self.namespace, *start_ms, &format!("{run_id}\0"));
        }
        let mut places = Vec::new();
        while !self.filter.wants_open() && places.len() < limit {
            let records = store.scan(&low, &high, SCANNED)?;
            for (key, value) in &records {
                let broken = || store.damaged(format!("record {} is none of the list", key.escape_ascii()));
                let (start_ms, run_id) = listed_run(&self.namespace, key).ok_or_else(broken)?;
                let run = Listed::decode(value.as_slice()).map_err(|_| broken())?;
                if self.filter.holds(&Known::of(run_id, start_ms, &run)) {
                    places.push((Reverse(start_ms), run_id.to_owned()));
                }
            }
            match records.last() {
                Some((key, _)) if records.len() == SCANNED => low = [key.as_slice(), &[0]].concat(),
                _ => break,
            }
        }
        places.truncate(limit);
        Ok(places)
    }
}

impl Service {
    pub(super) async fn list_workflow_executions(
        &self,
        request: ListWorkflowExecutionsRequest,
    ) -> Result<ListWorkflowExecutionsResponse, Status> {
        let wanted = Wanted::of(request.namespace, &request.query)?;
        let after = place(&request.next_page_token)?;
        let limit = usize::try_from(request.page_size)
            .ok()
            .filter(|size| (1..MAX_PAGE).contains(size))
            .unwrap_or(MAX_PAGE);
        // The open ones first: one that closes meanwhile is found twice, and not missed.
        let open = wanted.open(&self.core(), after.as_ref(), limit + 1);
        let store = &self.inner.store;
        let closed = wanted.closed(store, after.as_ref(), limit + 1);
        let closed = closed.map_err(|error| journal_status(&error))?;
        self.settled().await?;
        let mut found: BTreeMap<Place, Option<RunState>> =
            closed.into_iter().map(|place| (place, None)).collect();
        found.extend(open.into_iter().map(|(place, run)| (place, Some(run))));
        let more = found.len() > limit;
        let last = found.keys().nth(limit - 1).filter(|_| more);
        let next_page_token = last.map(page_token).unwrap_or_default();
        let mut executions = Vec::new();
        for ((_, run_id), run) in found.into_iter().take(limit) {
            let record = match run {
                Some(run) => Some(run.record().clone()),
                // Where it is gone, its time was over meanwhile.
                None => read_closed_record(store, &run_id).map_err(|error| journal_status(&error))?,
            };
            executions.extend(record.as_ref().map(execution_info));
        }
        Ok(ListWorkflowExecutionsResponse {
            executions,
            next_page_token,
        })
    }

    pub(super) async fn count_workflow_executions(
        &self,
        request: CountWorkflowExecutionsRequest,
    ) -> Result<CountWorkflowExecutionsResponse, Status> {
        let wanted = Wanted::of(request.namespace, &request.query)?;
        let open = wanted.open(&self.core(), None, usize::MAX);
        let closed = wanted.closed(&self.inner.store, None, usize::MAX);
        let closed = closed.map_err(|error| journal_status(&error))?;
        self.settled().await?;
        let open: BTreeSet<Place> = open.into_iter().map(|(place, _)| place).collect();
        let closed = closed.into_iter().filter(|place| !open.contains(place)).count();
        Ok(CountWorkflowExecutionsResponse {
            count: i64::try_from(open.len() + closed).unwrap_or(i64::MAX),
            ..Default::default()
        })
    }
}

fn page_token((Reverse(start_ms), run_id): &Place) -> Vec<u8> {
    format!("{start_ms}/{run_id}").into_bytes()
}

fn place(token: &[u8]) -> Result<Option<Place>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let parsed = std::str::from_utf8(token)
        .ok()
        .and_then(|text| text.split_once('/'));
    let parsed =
        parsed.and_then(|(start_ms, run_id)| Some((Reverse(start_ms.parse().ok()?), run_id.to_owned())));
    parsed
        .map(Some)
        .ok_or_else(|| Status::invalid_argument("the page token is not one of this service"))
}
