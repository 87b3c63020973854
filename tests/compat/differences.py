"""Where our histories differ from a real server's, and why. What is not in this list must not differ; what is in it must."""

# No worker versioning here: what a worker says of its build is not written down.
VERSIONING = "no worker versioning"
RESET = "no reset of workflows, and so no points to go back to"
UNSET = "a field without a value is written in another way; it reads the same"

# (event, attribute): why. (program, "order"): the events themselves differ.
EXPECTED: dict[tuple[str, str], str] = {
    ("ACTIVITY_TASK_STARTED", "workerVersion.buildId"): VERSIONING,
    ("WORKFLOW_TASK_COMPLETED", "workerVersion.buildId"): VERSIONING,
    ("WORKFLOW_TASK_STARTED", "workerVersion.buildId"): VERSIONING,
    ("WORKFLOW_EXECUTION_STARTED", "prevAutoResetPoints.points[0].buildId"): RESET,
    ("WORKFLOW_EXECUTION_STARTED", "prevAutoResetPoints.points[0].createTime"): RESET,
    ("WORKFLOW_EXECUTION_STARTED", "prevAutoResetPoints.points[0].expireTime"): RESET,
    ("WORKFLOW_EXECUTION_STARTED", "prevAutoResetPoints.points[0].firstWorkflowTaskCompletedId"): RESET,
    ("WORKFLOW_EXECUTION_STARTED", "prevAutoResetPoints.points[0].resettable"): RESET,
    ("WORKFLOW_EXECUTION_STARTED", "prevAutoResetPoints.points[0].runId"): RESET,
    ("WORKFLOW_TASK_COMPLETED", "meteringMetadata"): UNSET,
}
