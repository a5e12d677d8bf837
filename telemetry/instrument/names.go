package instrument

// The metrics that this package records, by the names that OpenTelemetry sees; on
// /metrics a dot becomes an underscore and unit and kind are appended.
const (
	// MetricPublish is the time from an event's append to the broker's
	// acknowledgement, by destination. Its count is the events published.
	MetricPublish = "napkin.outbox.publish.duration"
	// MetricPublishFailed counts publishes that were not acknowledged, by destination.
	MetricPublishFailed = "napkin.outbox.publish.failures"
	// MetricRepublish counts the times that a broker's log was lost and published again.
	MetricRepublish = "napkin.outbox.republishes"
	// MetricBacklog, MetricHoles and MetricOldest are the outbox as ObserveBacklog
	// reads it: unpublished events, open holes, age of the oldest.
	MetricBacklog = "napkin.outbox.unpublished"
	MetricHoles   = "napkin.outbox.holes"
	MetricOldest  = "napkin.outbox.oldest"

	// MetricProcess is the time an attempt to handle an event takes, by consumer,
	// destination, event type and outcome.
	MetricProcess = "messaging.process.duration"
	// MetricEventAge is an event's age when its effect was committed.
	MetricEventAge = "napkin.inbox.event.age"
	// MetricDuplicates counts redeliveries that the inbox recognised.
	MetricDuplicates = "napkin.inbox.duplicates"
	// MetricDeadLetters, MetricParked and MetricRedriven count events on their way
	// out of the ordinary.
	MetricDeadLetters = "napkin.inbox.dead_letters"
	MetricParked      = "napkin.inbox.parked"
	MetricRedriven    = "napkin.inbox.redriven"

	// MetricSagaStarted counts sagas begun, MetricSagaDuration the time to their end
	// by outcome (completed, compensated), MetricSagaStuck those that need an operator.
	MetricSagaStarted  = "napkin.saga.started"
	MetricSagaDuration = "napkin.saga.duration"
	MetricSagaStuck    = "napkin.saga.stuck"
	// MetricSagaSteps counts ended attempts by saga, step, phase and outcome.
	MetricSagaSteps = "napkin.saga.steps"
	// MetricSagaFenced counts outcomes refused from a node that had lost the instance.
	MetricSagaFenced = "napkin.saga.fenced"
	// MetricSagasPending is the number of unfinished sagas, as ObserveSagas reads it.
	MetricSagasPending = "napkin.saga.pending"

	// MetricCalls counts calls through a pipeline by destination and outcome, retries
	// not counted apart.
	MetricCalls = "napkin.resilience.calls"
	// MetricRetries counts retries, MetricGaveUp retries not made by reason,
	// MetricRejected local rejections by policy, MetricHedges hedged attempts.
	MetricRetries  = "napkin.resilience.retries"
	MetricGaveUp   = "napkin.resilience.gave_up"
	MetricRejected = "napkin.resilience.rejected"
	MetricHedges   = "napkin.resilience.hedges"
	// MetricBreaker is a breaker's state: 0 closed, 1 half-open, 2 open.
	MetricBreaker = "napkin.resilience.breaker.state"
	// MetricBudget, MetricInFlight and MetricWaiting are a pipeline's state, as
	// ObserveDestinations reads it.
	MetricBudget   = "napkin.resilience.budget"
	MetricInFlight = "napkin.resilience.in_flight"
	MetricWaiting  = "napkin.resilience.waiting"
	// MetricShed counts requests that a server dropped, by criticality and reason.
	MetricShed = "napkin.shedder.shed"
	// MetricShedLimit and MetricShedInFlight are the shedder's state.
	MetricShedLimit    = "napkin.shedder.limit"
	MetricShedInFlight = "napkin.shedder.in_flight"

	// MetricPool is a database pool's connections by state (idle, used), MetricPoolMax
	// their bound, MetricPoolWait the time spent waiting for one.
	MetricPool     = "db.client.connection.count"
	MetricPoolMax  = "db.client.connection.max"
	MetricPoolWait = "napkin.db.client.connection.wait"
)

// Attributes of spans and metrics.
const (
	AttrCorrelationID = "napkin.correlation_id"
	AttrCausationID   = "napkin.causation_id"
	AttrEventType     = "napkin.event.type"
	AttrOutcome       = "napkin.outcome"
	AttrReason        = "napkin.reason"
	AttrCriticality   = "napkin.criticality"
	AttrSaga          = "napkin.saga.name"
	AttrSagaID        = "napkin.saga.id"
	AttrStep          = "napkin.saga.step"
	AttrPhase         = "napkin.saga.phase"
	AttrDestination   = "napkin.destination"
	AttrPolicy        = "napkin.policy"
)
