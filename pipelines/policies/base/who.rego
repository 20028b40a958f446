# Who asks: tenants, actors, roles.
package soma.gate

looks_only(step) if {
	step.tool == "http"
	method(step) in {"GET", "HEAD"}
}

looks_only(step) if {
	step.tool == "terraform"
	step.operation in {"validate", "output"}
}

changes contains step if {
	some step in input.steps
	not looks_only(step)
}

has_role(allowed) if {
	some role in input.roles
	role in allowed
}

deny contains finding if {
	input.tenant in data.tenants.read_only
	some step in changes
	finding := {
		"rule": "tenant_read_only",
		"description": sprintf("tenant %s may only look: http with GET or HEAD", [input.tenant]),
		"severity": "high",
		"weight": 0.5,
		"step_id": step.step_id,
	}
}

deny contains finding if {
	input.tenant in data.tenants.suspended
	finding := {
		"rule": "tenant_suspended",
		"description": sprintf("tenant %s is suspended: ask its administrator", [input.tenant]),
		"severity": "critical",
		"weight": 0.6,
	}
}

deny contains finding if {
	count(data.tenants.known) > 0
	not input.tenant in data.tenants.known
	finding := {
		"rule": "tenant_unknown",
		"description": sprintf("tenant %s is not one of tenants.known", [input.tenant]),
		"severity": "high",
		"weight": 0.5,
	}
}

# A name that only looks like another's, in letters of another script.
deny contains finding if {
	not regex.match(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`, input.tenant)
	input.tenant != ""
	finding := {
		"rule": "tenant_name",
		"description": sprintf("tenant `%s` is not made of plain letters, digits, `.`, `_` and `-`: it could pass for another", [input.tenant]),
		"severity": "critical",
		"weight": 0.6,
	}
}

deny contains finding if {
	input.actor == ""
	input.tenant != ""
	finding := {
		"rule": "actor_missing",
		"description": "nobody asks for this: a request names its actor",
		"severity": "high",
		"weight": 0.5,
	}
}

deny contains finding if {
	input.actor in data.actors.suspended
	finding := {
		"rule": "actor_suspended",
		"description": sprintf("%s is suspended: ask an administrator", [input.actor]),
		"severity": "critical",
		"weight": 0.6,
	}
}

deny contains finding if {
	count(data.roles.change) > 0
	not has_role(data.roles.change)
	some step in changes
	finding := {
		"rule": "role_missing",
		"description": sprintf("%s has none of the roles that may change things: %s", [input.actor, concat(", ", data.roles.change)]),
		"severity": "high",
		"weight": 0.5,
		"step_id": step.step_id,
	}
}

deny contains finding if {
	some step in input.steps
	some tool, needed in data.roles.tools
	tool == step.tool
	not has_role(needed)
	finding := {
		"rule": "tool_needs_role",
		"description": sprintf("%s needs one of the roles %s", [step.tool, concat(", ", needed)]),
		"severity": "high",
		"weight": 0.5,
		"step_id": step.step_id,
	}
}

deny contains finding if {
	some step in input.steps
	some tenant, allowed in data.tenants.tools
	tenant == input.tenant
	not step.tool in allowed
	finding := {
		"rule": "tool_not_allowed",
		"description": sprintf("tenant %s may use %s, not %s", [input.tenant, concat(", ", allowed), step.tool]),
		"severity": "high",
		"weight": 0.5,
		"step_id": step.step_id,
	}
}

# Times as RFC 3339 in UTC, which sort as text.
deny contains finding if {
	some window in data.freezes
	window.from <= input.now
	input.now < window.until
	some step in changes
	not step.compensation
	finding := {
		"rule": "frozen",
		"description": sprintf("changes are frozen until %s: %s", [window.until, window.reason]),
		"severity": "high",
		"weight": 0.5,
		"step_id": step.step_id,
	}
}

# Moderation: who breaks its rules again and again is locked out until the strikes are old, or pardoned.
recent_strikes := [strike.at |
	some strike in input.strikes
	strike.age_s <= data.moderation.window_s
]

deny contains finding if {
	count(recent_strikes) >= data.moderation.lock_after
	finding := {
		"rule": "moderation_locked",
		"description": sprintf("%s broke the rules of moderation %d times lately and is locked out: wait, or ask an administrator for a pardon (soma strike)", [input.actor, count(recent_strikes)]),
		"severity": "high",
		"weight": 0.6,
	}
}
