//! Listing and counting workflows, in the order of a Temporal server: the open ones first, from memory; then the closed ones,
//! those that closed last first, from their list and its index in the journal. A page costs what is on it and what the filter
//! passes over; what is indexed is not passed over.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};

use prost::Message;
use temporalio_protos::temporal::api::common::v1::Payload;
use temporalio_protos::temporal::api::enums::v1::WorkflowExecutionStatus;
use temporalio_protos::temporal::api::workflowservice::v1::count_workflow_executions_response::AggregationGroup;
use temporalio_protos::temporal::api::workflowservice::v1::{
    CountWorkflowExecutionsRequest, CountWorkflowExecutionsResponse, ListWorkflowExecutionsRequest,
    ListWorkflowExecutionsResponse,
};
use tonic::Status;

use super::core::Core;
use super::filter::{Filter, Known};
use super::frontend::execution_info;
use super::history::{RunRecord, RunState};
use super::index::{Plan, Value};
use super::journal::{JournalError, Store, listed_prefix, place_of, placed_key, placed_range};
use super::stored::read_closed_record;
use super::{NAMESPACE, Service, journal_status};

/// Workflows on a page, unless the client wants fewer.
const MAX_PAGE: usize = 1000;
/// Entries of the list of closed runs that are read at a time.
const SCANNED: usize = 1000;
/// An open run stands where one would that closes after all others.
const OPEN_MS: i64 = i64::MAX;

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
    /// The keys of a closed run: that of the list, and those of the index.
    pub fn keys(&self, namespace: &str, start_ms: i64, run_id: &str) -> (Vec<u8>, [Vec<u8>; 3]) {
        let place = (self.close_ms, start_ms, run_id);
        let indexed = Value::of(self).map(|value| placed_key(&value.prefix(namespace), place));
        (placed_key(&listed_prefix(namespace), place), indexed)
    }
}

/// Where a run stands in a list: when it closed, when it started; the run id makes the order total, so that pages join up.
type Place = (Reverse<i64>, Reverse<i64>, String);

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
            Some((Reverse(OPEN_MS), start, run_id)) => Bound::Excluded((namespace, *start, run_id.clone())),
            Some(_) => return Vec::new(),
            None => Bound::Included((namespace, Reverse(i64::MAX), String::new())),
        };
        let started = core.started.range((low, Bound::Unbounded));
        let started = started.take_while(|(namespace, ..)| *namespace == self.namespace);
        let runs = started.filter_map(|(_, start, run_id)| {
            let run = core.runs.get(run_id)?;
            let place = (Reverse(OPEN_MS), *start, run_id.clone());
            let holds = self.filter.holds(&Known::of(run_id, start.0, &Listed::of(run)));
            holds.then(|| (place, run.clone()))
        });
        runs.take(limit).collect()
    }

    /// Closed runs behind a place, at most `limit`.
    fn closed(&self, store: &Store, after: Option<&Place>, limit: usize) -> Result<Vec<Place>, JournalError> {
        let mut places = Vec::new();
        let plan = Plan::of(&self.filter);
        for value in values(&plan) {
            let mut found = Vec::new();
            self.each_closed(store, &plan, value, after, |place, _| {
                found.push(place);
                match found.len() < limit {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            })?;
            places.extend(found);
        }
        places.sort();
        places.truncate(limit);
        Ok(places)
    }

    /// Visits the closed runs behind a place that have a value, in the order of the list.
    fn each_closed(
        &self,
        store: &Store,
        plan: &Plan,
        value: Option<&Value>,
        after: Option<&Place>,
        mut visit: impl FnMut(Place, Option<&Listed>) -> ControlFlow<()>,
    ) -> Result<(), JournalError> {
        if self.filter.wants_open() {
            return Ok(());
        }
        let listed = listed_prefix(&self.namespace);
        let prefix = value.map_or_else(|| listed.clone(), |value| value.prefix(&self.namespace));
        let (mut low, high) = placed_range(&prefix, plan.closed_ms);
        if let Some((Reverse(close_ms), Reverse(start_ms), run_id)) = after {
            let behind = placed_key(&prefix, (*close_ms, *start_ms, &format!("{run_id}\0")));
            low = low.max(behind);
        }
        while low < high {
            let records = store.scan(&low, &high, SCANNED)?;
            for (key, bytes) in &records {
                let broken = || store.damaged(format!("record {} is none of the list", key.escape_ascii()));
                let place = place_of(&prefix, key).ok_or_else(broken)?;
                let run = match value {
                    None => Some(bytes.clone()),
                    Some(_) if plan.is_exact => None,
                    // Where it is gone, its time was over meanwhile.
                    Some(_) => match store.get(&placed_key(&listed, place))? {
                        Some(bytes) => Some(bytes),
                        None => continue,
                    },
                };
                let run = run.map(|bytes| Listed::decode(bytes.as_slice()).map_err(|_| broken()));
                let run = run.transpose()?;
                let (close_ms, start_ms, run_id) = place;
                let holds = |run| self.filter.holds(&Known::of(run_id, start_ms, run));
                if run.as_ref().is_none_or(holds) {
                    let place = (Reverse(close_ms), Reverse(start_ms), run_id.to_owned());
                    if visit(place, run.as_ref()).is_break() {
                        return Ok(());
                    }
                }
            }
            match records.last() {
                Some((key, _)) if records.len() == SCANNED => low = [key.as_slice(), &[0]].concat(),
                _ => break,
            }
        }
        Ok(())
    }
}

/// What is to be looked up; `None`: all runs.
fn values(plan: &Plan) -> Vec<Option<&Value>> {
    match &plan.values {
        Some(values) => values.iter().map(Some).collect(),
        None => vec![None],
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
        let mut found = wanted.open(&self.core(), after.as_ref(), limit + 1);
        let twice: BTreeSet<String> = found.iter().map(|(_, run)| run.run_id.clone()).collect();
        let store = &self.inner.store;
        let mut closed = Vec::new();
        if found.len() <= limit {
            let closed_after = after.as_ref().filter(|(close, ..)| close.0 != OPEN_MS);
            let wanted_more = limit + 1 + twice.len();
            closed = wanted
                .closed(store, closed_after, wanted_more)
                .map_err(|error| journal_status(&error))?;
            closed.retain(|(.., run_id)| !twice.contains(run_id));
        }
        self.settled().await?;
        let places = found.iter().map(|(place, _)| place).chain(&closed);
        let last = places
            .clone()
            .nth(limit)
            .and_then(|_| places.clone().nth(limit - 1));
        let next_page_token = last.map(page_token).unwrap_or_default();
        found.truncate(limit);
        closed.truncate(limit - found.len());
        let mut executions: Vec<_> = found
            .iter()
            .map(|(_, run)| execution_info(run.record()))
            .collect();
        for (.., run_id) in closed {
            // Where it is gone, its time was over meanwhile.
            let record = read_closed_record(store, &run_id).map_err(|error| journal_status(&error))?;
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
        let (query, by_status) = Filter::split_group(&request.query).map_err(Status::invalid_argument)?;
        let wanted = Wanted::of(request.namespace, query)?;
        let open = wanted.open(&self.core(), None, usize::MAX);
        let mut counts = BTreeMap::new();
        if !open.is_empty() {
            counts.insert(WorkflowExecutionStatus::Running as i32, open.len());
        }
        let twice: BTreeSet<String> = open.into_iter().map(|(place, _)| place.2).collect();
        let plan = Plan {
            is_exact: Plan::of(&wanted.filter).is_exact && !by_status,
            ..Plan::of(&wanted.filter)
        };
        for value in values(&plan) {
            let counted = wanted.each_closed(&self.inner.store, &plan, value, None, |(.., run_id), run| {
                if !twice.contains(&run_id) {
                    *counts.entry(run.map_or(0, |run| run.status)).or_default() += 1;
                }
                ControlFlow::Continue(())
            });
            counted.map_err(|error| journal_status(&error))?;
        }
        self.settled().await?;
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let group = |(status, count): (&i32, &usize)| AggregationGroup {
            group_values: vec![keyword(
                WorkflowExecutionStatus::try_from(*status).unwrap_or_default(),
            )],
            count: number(*count),
        };
        Ok(CountWorkflowExecutionsResponse {
            count: number(counts.values().sum()),
            groups: counts.iter().filter(|_| by_status).map(group).collect(),
        })
    }
}

/// A status as the value of a search attribute.
fn keyword(status: WorkflowExecutionStatus) -> Payload {
    let metadata = [("encoding", "json/plain"), ("type", "Keyword")];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec()));
    Payload {
        metadata: metadata.into(),
        data: format!("\"{status:?}\"").into_bytes(),
        ..Default::default()
    }
}

fn page_token((Reverse(close_ms), Reverse(start_ms), run_id): &Place) -> Vec<u8> {
    format!("{close_ms}/{start_ms}/{run_id}").into_bytes()
}

fn place(token: &[u8]) -> Result<Option<Place>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let parsed = std::str::from_utf8(token).ok().and_then(|text| {
        let (close_ms, rest) = text.split_once('/')?;
        let (start_ms, run_id) = rest.split_once('/')?;
        let [close_ms, start_ms] = [close_ms.parse().ok()?, start_ms.parse().ok()?];
        Some((Reverse(close_ms), Reverse(start_ms), run_id.to_owned()))
    });
    parsed
        .map(Some)
        .ok_or_else(|| Status::invalid_argument("the page token is not one of this service"))
}
