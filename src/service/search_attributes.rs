//! Which search attributes there are. A server takes those that were registered with it; here none can be, so there are only
//! those that every server has. Any other is refused, not kept where nobody can search for it.

use temporalio_protos::temporal::api::common::v1::SearchAttributes;

/// Those that clients and SDKs may set on a Temporal server without registering them.
const PREDEFINED: [&str; 15] = [
    "BatcherNamespace",
    "BatcherUser",
    "BinaryChecksums",
    "BuildIds",
    "TemporalChangeVersion",
    "TemporalNamespaceDivision",
    "TemporalPauseInfo",
    "TemporalReportedProblems",
    "TemporalScheduledById",
    "TemporalSchedulePaused",
    "TemporalScheduledStartTime",
    "TemporalUsedWorkerDeploymentVersions",
    "TemporalWorkerDeployment",
    "TemporalWorkerDeploymentVersion",
    "TemporalWorkflowVersioningBehavior",
];

/// Errs with the first name that is not known.
pub fn check(attributes: Option<&SearchAttributes>) -> Result<(), String> {
    let names = attributes.iter().flat_map(|it| it.indexed_fields.keys());
    let unknown = names.filter(|name| !PREDEFINED.contains(&name.as_str())).min();
    match unknown {
        Some(name) => Err(format!("search attribute {name} is not defined")),
        None => Ok(()),
    }
}
