# The plan as a whole: what it may cost, how much it does, what its words try.
package soma.gate

is_plan if input.subject.kind == "PLAN"

# Asked once, for the plan; its steps need no second answer.
escalate contains finding if {
	is_plan
	input.budget_usd > data.limits.budget_usd
	finding := {
		"rule": "budget_above_limit",
		"description": sprintf("the run may cost %v US dollars, more than %v; a human decides", [input.budget_usd, data.limits.budget_usd]),
		"severity": "medium",
		"weight": 0.25,
	}
}

deny contains finding if {
	input.budget_usd > data.limits.budget_usd_max
	finding := {
		"rule": "budget_above_ceiling",
		"description": sprintf("no run may cost more than %v US dollars", [data.limits.budget_usd_max]),
		"severity": "high",
		"weight": 0.5,
	}
}

deny contains finding if {
	is_number(input.budget_usd)
	input.budget_usd < 0
	finding := {
		"rule": "budget_negative",
		"description": "a budget is not below zero",
		"severity": "medium",
		"weight": 0.25,
	}
}

escalate contains finding if {
	is_plan
	input.autonomy == "AUTONOMOUS"
	input.budget_usd == null
	finding := {
		"rule": "budget_missing",
		"description": "an autonomous run without a budget has no end; a human decides",
		"severity": "medium",
		"weight": 0.25,
	}
}

deny contains finding if {
	count(input.steps) > data.limits.steps
	finding := {
		"rule": "plan_too_long",
		"description": sprintf("a plan of %v steps is more than anyone can look at: %v at most", [count(input.steps), data.limits.steps]),
		"severity": "medium",
		"weight": 0.25,
	}
}

escalate contains finding if {
	is_plan
	taken := {step.step_id | some step in input.steps; takes_away(step)}
	count(taken) > data.limits.deletes
	finding := {
		"rule": "plan_takes_much_away",
		"description": sprintf("%v steps take something away; a human looks at all of them together", [count(taken)]),
		"severity": "high",
		"weight": 0.4,
	}
}

escalate contains finding if {
	is_plan
	text := lower(input.goal)
	some phrase in data.words.injection
	contains(text, phrase)
	finding := {
		"rule": "words_of_injection",
		"description": sprintf("the goal says `%s`, as text does that was put there to steer an agent; a human decides", [phrase]),
		"severity": "high",
		"weight": 0.4,
	}
}

takes_away(step) if {
	step.tool == "http"
	method(step) == "DELETE"
}

takes_away(step) if {
	step.tool == "terraform"
	step.operation == "destroy"
}
