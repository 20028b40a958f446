# The base policy. Each finding says which rule speaks against the subject, and about which step.
# `deny` is final; `escalate` asks a human. What no rule speaks against is allowed.
package soma.gate

# Terraform -----------------------------------------------------------------------------------------------------------

escalate contains finding if {
	some step in input.steps
	step.tool == "terraform"
	step.operation == "apply"
	is_number(step.arguments.destroy_count)
	step.arguments.destroy_count > 0
	finding := {
		"rule": "terraform_apply_destroys",
		"description": sprintf("applying this plan destroys %v resource(s); a human decides", [step.arguments.destroy_count]),
		"severity": "high",
		"weight": 0.4,
		"step_id": step.step_id,
	}
}

# An apply that does not say how much it destroys could destroy anything.
escalate contains finding if {
	some step in input.steps
	step.tool == "terraform"
	step.operation == "apply"
	step.exact
	not is_number(object.get(step.arguments, "destroy_count", null))
	finding := {
		"rule": "terraform_apply_unstated",
		"description": "the apply does not say how much it destroys: give destroy_count from the plan's result",
		"severity": "high",
		"weight": 0.4,
		"step_id": step.step_id,
	}
}

# The way back from a step this platform did itself needs no human; any other destroy does.
escalate contains finding if {
	some step in input.steps
	step.tool == "terraform"
	step.operation == "destroy"
	not step.compensation
	finding := {
		"rule": "terraform_destroy",
		"description": "a destroy takes everything in the workspace away; a human decides",
		"severity": "high",
		"weight": 0.4,
		"step_id": step.step_id,
	}
}

# HTTP ----------------------------------------------------------------------------------------------------------------

calls_out := {"http", "notify"}

host_allowed(url) if {
	url.loopback
	data.hosts.loopback
}

host_allowed(url) if url.host in data.hosts.allowed

host_allowed(url) if {
	some suffix in data.hosts.allowed
	startswith(suffix, ".")
	endswith(url.host, suffix)
}

target_allowed(step) if {
	step.url.valid
	step.url.scheme in {"http", "https"}
	not step.url.credentials
	host_allowed(step.url)
}

# A target that is not known yet is judged when it is.
target_pending(step) if {
	not step.exact
	contains(step.arguments.url, "${steps.")
}

deny contains finding if {
	some step in input.steps
	step.tool in calls_out
	not target_pending(step)
	not target_allowed(step)
	finding := {
		"rule": "host_not_allowed",
		"description": sprintf("%s is not a host tools may call: an operator adds it to hosts.allowed", [host(step)]),
		"severity": "high",
		"weight": 0.5,
		"step_id": step.step_id,
	}
}

host(step) := step.url.host if step.url.valid

host(step) := "a missing or unreadable url" if not step.url.valid

method(step) := upper(object.get(step.arguments, "method", "GET"))

escalate contains finding if {
	some step in input.steps
	step.tool == "http"
	method(step) == "DELETE"
	not step.compensation
	finding := {
		"rule": "http_delete",
		"description": "an HTTP DELETE takes something away; a human decides",
		"severity": "medium",
		"weight": 0.25,
		"step_id": step.step_id,
	}
}

# Tenants and budgets -------------------------------------------------------------------------------------------------

looks_only(step) if {
	step.tool == "http"
	method(step) in {"GET", "HEAD"}
}

deny contains finding if {
	input.tenant in data.tenants.read_only
	some step in input.steps
	not looks_only(step)
	finding := {
		"rule": "tenant_read_only",
		"description": sprintf("tenant %s may only look: http with GET or HEAD", [input.tenant]),
		"severity": "high",
		"weight": 0.5,
		"step_id": step.step_id,
	}
}

# Asked once, for the plan; its steps need no second answer.
escalate contains finding if {
	input.subject.kind == "PLAN"
	input.budget_usd > data.limits.budget_usd
	finding := {
		"rule": "budget_above_limit",
		"description": sprintf("the run may cost %v US dollars, more than %v; a human decides", [input.budget_usd, data.limits.budget_usd]),
		"severity": "medium",
		"weight": 0.25,
	}
}
