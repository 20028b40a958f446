# Tests of the base policy: `soma check` runs them.
package soma.gate_test

import data.soma.gate

case(step) := {"subject": {"kind": "PLAN", "id": "p"}, "tenant": "acme", "budget_usd": null, "steps": [object.union(base, step)]}

base := {"step_id": "s", "exact": true, "compensation": false, "url": null, "arguments": {}}

rules(findings) := {f.rule | some f in findings}

web(host, loopback) := {"valid": true, "scheme": "https", "host": host, "loopback": loopback, "credentials": false}

get(url) := {"tool": "http", "operation": "request", "url": url, "arguments": {"method": "GET", "url": "x"}}

apply(arguments) := {"tool": "terraform", "operation": "apply", "arguments": arguments}

test_an_apply_that_destroys_nothing_is_allowed if {
	count(gate.escalate) == 0 with input as case(apply({"destroy_count": 0}))
	count(gate.deny) == 0 with input as case(apply({"destroy_count": 0}))
}

test_an_apply_that_destroys_escalates if {
	rules(gate.escalate) == {"terraform_apply_destroys"} with input as case(apply({"destroy_count": 2}))
}

test_an_apply_that_does_not_say_escalates if {
	rules(gate.escalate) == {"terraform_apply_unstated"} with input as case(apply({}))
	rules(gate.escalate) == {"terraform_apply_unstated"} with input as case(apply({"destroy_count": "0"}))
}

test_an_apply_not_yet_known_waits if {
	step := object.union(apply({"destroy_count": "${steps.plan.result.destroy}"}), {"exact": false})
	count(gate.escalate) == 0 with input as case(step)
}

test_a_destroy_escalates_unless_it_is_the_way_back if {
	destroy := {"tool": "terraform", "operation": "destroy"}
	rules(gate.escalate) == {"terraform_destroy"} with input as case(destroy)
	count(gate.escalate) == 0 with input as case(object.union(destroy, {"compensation": true}))
}

test_loopback_is_allowed if {
	count(gate.deny) == 0 with input as case(get(web("127.0.0.1", true)))
}

test_loopback_can_be_closed if {
	rules(gate.deny) == {"host_not_allowed"} with input as case(get(web("127.0.0.1", true)))
		with data.hosts as {"allowed": [], "loopback": false}
}

test_other_hosts_are_denied if {
	rules(gate.deny) == {"host_not_allowed"} with input as case(get(web("203.0.113.9", false)))
	rules(gate.deny) == {"host_not_allowed"} with input as case(get({"valid": false}))
	rules(gate.deny) == {"host_not_allowed"} with input as case(get(null))
}

test_listed_hosts_are_allowed if {
	hosts := {"allowed": ["api.example.org", ".example.net"], "loopback": false}
	count(gate.deny) == 0 with input as case(get(web("api.example.org", false))) with data.hosts as hosts
	count(gate.deny) == 0 with input as case(get(web("a.example.net", false))) with data.hosts as hosts
	count(gate.deny) == 1 with input as case(get(web("badexample.net", false))) with data.hosts as hosts
}

test_credentials_in_a_url_are_denied if {
	rules(gate.deny) == {"host_not_allowed"} with input as case(get(object.union(web("127.0.0.1", true), {"credentials": true})))
}

test_a_delete_escalates if {
	step := object.union(get(web("127.0.0.1", true)), {"arguments": {"method": "delete"}})
	rules(gate.escalate) == {"http_delete"} with input as case(step)
}

test_a_read_only_tenant_may_only_look if {
	look := object.union(case(get(web("127.0.0.1", true))), {"tenant": "globex-readonly"})
	count(gate.deny) == 0 with input as look
	change := object.union(case(apply({"destroy_count": 0})), {"tenant": "globex-readonly"})
	rules(gate.deny) == {"tenant_read_only"} with input as change
}

test_a_large_budget_escalates_once if {
	large := object.union(case(get(web("127.0.0.1", true))), {"budget_usd": 100.5})
	rules(gate.escalate) == {"budget_above_limit"} with input as large
	count(gate.escalate) == 0 with input as object.union(large, {"subject": {"kind": "STEP", "id": "s"}})
	count(gate.escalate) == 0 with input as object.union(large, {"budget_usd": 100})
}

test_a_target_not_yet_known_is_judged_when_it_is if {
	step := object.union(get({"valid": false}), {"exact": false, "arguments": {"url": "${steps.a.result.url}"}})
	count(gate.deny) == 0 with input as case(step)
	rules(gate.deny) == {"host_not_allowed"} with input as case(object.union(step, {"exact": true}))
}
