//! What a client asks about the service itself, and what a worker says about itself.

use temporalio_protos::temporal::api::enums::v1::{DescribeTaskQueueMode, NamespaceState, TaskQueueType};
use temporalio_protos::temporal::api::namespace::v1::namespace_info::{
    Capabilities as NamespaceCapabilities, Limits,
};
use temporalio_protos::temporal::api::namespace::v1::{NamespaceConfig, NamespaceInfo};
use temporalio_protos::temporal::api::replication::v1::{
    ClusterReplicationConfig, NamespaceReplicationConfig,
};
use temporalio_protos::temporal::api::taskqueue::v1::{
    PollerInfo, TaskIdBlock, TaskQueueStats, TaskQueueStatus, TaskQueueTypeInfo, TaskQueueVersionInfo,
};
use temporalio_protos::temporal::api::workflowservice::v1::get_system_info_response::Capabilities;
use temporalio_protos::temporal::api::workflowservice::v1::{
    DescribeNamespaceRequest, DescribeNamespaceResponse, DescribeTaskQueueRequest, DescribeTaskQueueResponse,
    GetClusterInfoRequest, GetClusterInfoResponse, GetSystemInfoRequest, GetSystemInfoResponse,
    ListNamespacesRequest, ListNamespacesResponse, ResetStickyTaskQueueRequest, ResetStickyTaskQueueResponse,
    ShutdownWorkerRequest, ShutdownWorkerResponse,
};
use tonic::Status;

use super::super::clock::timestamp;
use super::super::core::Core;
use super::super::history::{Change, MAX_PAYLOAD_BYTES, RETENTION_MS};
use super::super::matching::QueueKind;
use super::super::{NAMESPACE, Service};
use super::{check_id, check_namespace};

const SERVER_VERSION: &str = env!("CARGO_PKG_VERSION");
/// There is one, and it is active.
const CLUSTER: &str = "longhaul";

impl Service {
    pub(super) async fn get_system_info(
        &self,
        _: GetSystemInfoRequest,
    ) -> Result<GetSystemInfoResponse, Status> {
        let capabilities = Capabilities {
            signal_and_query_header: true,
            internal_error_differentiation: true,
            activity_failure_include_heartbeat: true,
            supports_schedules: false,
            encoded_failure_attributes: true,
            // They say their builds, which are written down.
            build_id_based_versioning: true,
            upsert_memo: true,
            eager_workflow_start: false,
            sdk_metadata: true,
            count_group_by_execution_status: true,
            nexus: false,
            ..Default::default()
        };
        Ok(GetSystemInfoResponse {
            server_version: SERVER_VERSION.to_owned(),
            capabilities: Some(capabilities),
        })
    }

    pub(super) async fn get_cluster_info(
        &self,
        _: GetClusterInfoRequest,
    ) -> Result<GetClusterInfoResponse, Status> {
        Ok(GetClusterInfoResponse {
            server_version: SERVER_VERSION.to_owned(),
            cluster_name: CLUSTER.to_owned(),
            persistence_store: "sled".to_owned(),
            visibility_store: "sled".to_owned(),
            history_shard_count: 1,
            ..Default::default()
        })
    }

    pub(super) async fn describe_namespace(
        &self,
        request: DescribeNamespaceRequest,
    ) -> Result<DescribeNamespaceResponse, Status> {
        check_namespace(&request.namespace)?;
        Ok(the_namespace())
    }

    pub(super) async fn list_namespaces(
        &self,
        _: ListNamespacesRequest,
    ) -> Result<ListNamespacesResponse, Status> {
        Ok(ListNamespacesResponse {
            namespaces: vec![the_namespace()],
            ..Default::default()
        })
    }

    #[expect(deprecated, reason = "the temporal command asks in the older ways")]
    pub(super) async fn describe_task_queue(
        &self,
        request: DescribeTaskQueueRequest,
    ) -> Result<DescribeTaskQueueResponse, Status> {
        let name = check_id("task queue", &request.task_queue.unwrap_or_default().name)?.to_owned();
        let mut core = self.core();
        if request.api_mode == DescribeTaskQueueMode::Enhanced as i32 {
            let types = [TaskQueueType::Workflow, TaskQueueType::Activity];
            let about = |it| (it as i32, self.about_queue(&mut core, it, &name));
            let unversioned = TaskQueueVersionInfo {
                types_info: types.into_iter().map(about).collect(),
                ..Default::default()
            };
            return Ok(DescribeTaskQueueResponse {
                versions_info: [(String::new(), unversioned)].into(),
                ..Default::default()
            });
        }
        let asked = TaskQueueType::try_from(request.task_queue_type).unwrap_or_default();
        let about = self.about_queue(&mut core, asked, &name);
        let backlog = about.stats.as_ref().map_or(0, |it| it.approximate_backlog_count);
        let status = TaskQueueStatus {
            backlog_count_hint: backlog,
            task_id_block: Some(TaskIdBlock::default()),
            ..Default::default()
        };
        Ok(DescribeTaskQueueResponse {
            pollers: about.pollers,
            stats: about.stats.filter(|_| request.report_stats),
            task_queue_status: Some(status).filter(|_| request.include_task_queue_status),
            ..Default::default()
        })
    }

    /// Who polls a queue, and how much waits in it.
    fn about_queue(&self, core: &mut Core, asked: TaskQueueType, name: &str) -> TaskQueueTypeInfo {
        let kind = if asked == TaskQueueType::Activity {
            QueueKind::Activity
        } else {
            QueueKind::Workflow
        };
        let pollers = core.matching.pollers(kind, name, self.now_ms());
        let pollers = pollers.into_iter().map(|(identity, seen_ms)| PollerInfo {
            last_access_time: timestamp(seen_ms),
            identity,
            ..Default::default()
        });
        let backlog = core.matching.backlog(kind, name);
        TaskQueueTypeInfo {
            pollers: pollers.collect(),
            stats: Some(TaskQueueStats {
                approximate_backlog_count: i64::try_from(backlog).unwrap_or(i64::MAX),
                ..Default::default()
            }),
        }
    }

    pub(super) async fn shutdown_worker(
        &self,
        request: ShutdownWorkerRequest,
    ) -> Result<ShutdownWorkerResponse, Status> {
        self.core()
            .retire_worker(&request.identity, &request.sticky_task_queue);
        Ok(ShutdownWorkerResponse::default())
    }

    pub(super) async fn reset_sticky_task_queue(
        &self,
        request: ResetStickyTaskQueueRequest,
    ) -> Result<ResetStickyTaskQueueResponse, Status> {
        let reset = |change: &mut Change| {
            change.must_be_open()?;
            change.state.sticky = None;
            Ok(())
        };
        self.change_found(&request.namespace, request.execution, "", reset)
            .await?;
        Ok(ResetStickyTaskQueueResponse {})
    }
}

fn the_namespace() -> DescribeNamespaceResponse {
    let bytes = i64::try_from(MAX_PAYLOAD_BYTES).unwrap_or(i64::MAX);
    let info = NamespaceInfo {
        name: NAMESPACE.to_owned(),
        state: NamespaceState::Registered as i32,
        description: "the one namespace of this service".to_owned(),
        id: "00000000-0000-0000-0000-000000000001".to_owned(),
        capabilities: Some(NamespaceCapabilities {
            sync_update: true,
            async_update: true,
            ..Default::default()
        }),
        limits: Some(Limits {
            blob_size_limit_error: bytes,
            memo_size_limit_error: bytes,
            ..Default::default()
        }),
        ..Default::default()
    };
    let retention = prost_types::Duration {
        seconds: RETENTION_MS / 1000,
        nanos: 0,
    };
    let config = NamespaceConfig {
        workflow_execution_retention_ttl: Some(retention),
        ..Default::default()
    };
    // The temporal command does not do without it.
    let replication = NamespaceReplicationConfig {
        active_cluster_name: CLUSTER.to_owned(),
        clusters: vec![ClusterReplicationConfig {
            cluster_name: CLUSTER.to_owned(),
            ..Default::default()
        }],
        ..Default::default()
    };
    DescribeNamespaceResponse {
        namespace_info: Some(info),
        config: Some(config),
        replication_config: Some(replication),
        ..Default::default()
    }
}
