//! Which build of a worker was the first to complete which workflow task: the places to which a workflow whose code was at
//! fault could be taken back.

use temporalio_protos::temporal::api::workflow::v1::ResetPointInfo;

use super::super::clock::timestamp;
use super::{Change, RETENTION_MS};

/// The older ones are forgotten, as on a Temporal server.
const MAX_RESET_POINTS: usize = 20;

impl Change {
    /// A workflow task was completed by a worker of this build.
    #[expect(deprecated, reason = "older workers name their build by a checksum")]
    pub(super) fn note_build(&mut self, build_id: &str, binary_checksum: &str, completed_event_id: i64) {
        let known = |it: &ResetPointInfo| it.build_id == build_id && it.binary_checksum == binary_checksum;
        if self.state.reset_points.iter().any(known) {
            return;
        }
        let point = ResetPointInfo {
            build_id: build_id.to_owned(),
            binary_checksum: binary_checksum.to_owned(),
            run_id: self.state.run_id.clone(),
            first_workflow_task_completed_id: completed_event_id,
            create_time: timestamp(self.now_ms),
            expire_time: None,
            resettable: true,
        };
        let points = &mut self.state.reset_points;
        points.push(point);
        let too_many = points.len().saturating_sub(MAX_RESET_POINTS);
        points.drain(..too_many);
    }

    /// What the run that follows has of them: those of this run for as long as it is kept.
    pub(super) fn points_to_hand_on(&self) -> Vec<ResetPointInfo> {
        let mut points = self.state.reset_points.clone();
        let now_s = self.now_ms / 1000;
        let expired = |it: &ResetPointInfo| it.expire_time.is_some_and(|at| at.seconds < now_s);
        points.retain(|it| !expired(it));
        for point in points.iter_mut().filter(|it| it.run_id == self.state.run_id) {
            point.expire_time = timestamp(self.now_ms.saturating_add(RETENTION_MS));
        }
        points
    }
}
