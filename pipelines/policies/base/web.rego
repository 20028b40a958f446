# What tools may call: the `http` and `notify` tools.
package soma.gate

calls_out := {"http", "notify"}

methods := {"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"}

# Every step that calls out, once for all the rules below.
web_steps contains step if {
	some step in input.steps
	step.tool in calls_out
}

http_steps contains step if {
	some step in web_steps
	step.tool == "http"
}

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

host(step) := step.url.host if step.url.valid

else := "a missing or unreadable url"

method(step) := upper(object.get(step.arguments, "method", "GET"))

# What is sent, as text: a secret may stand anywhere in it.
sent(step) := json.marshal(object.filter(step.arguments, ["body", "form", "headers", "json", "query", "text"]))

deny contains finding if {
	some step in web_steps
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

# Whatever an operator allows: these answer with the machine's own credentials.
deny contains finding if {
	some step in web_steps
	step.url.host in data.hosts.metadata
	finding := {
		"rule": "http_cloud_metadata",
		"description": sprintf("%s answers with credentials of the machine: no tool may ask it", [step.url.host]),
		"severity": "critical",
		"weight": 0.6,
		"step_id": step.step_id,
	}
}

deny contains finding if {
	some step in web_steps
	step.url.port in data.hosts.ports_denied
	finding := {
		"rule": "http_port_not_allowed",
		"description": sprintf("port %v is not a web server's: use the tool made for that server", [step.url.port]),
		"severity": "high",
		"weight": 0.5,
		"step_id": step.step_id,
	}
}

deny contains finding if {
	some step in web_steps
	step.url.scheme == "http"
	not step.url.loopback
	not step.url.host in data.hosts.unencrypted
	finding := {
		"rule": "http_unencrypted",
		"description": sprintf("%s would be called unencrypted: use https, or an operator adds it to hosts.unencrypted", [step.url.host]),
		"severity": "high",
		"weight": 0.5,
		"step_id": step.step_id,
	}
}

escalate contains finding if {
	some step in http_steps
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

deny contains finding if {
	some step in http_steps
	not method(step) in methods
	finding := {
		"rule": "http_method_unknown",
		"description": sprintf("%s is not a method this platform sends", [method(step)]),
		"severity": "medium",
		"weight": 0.25,
		"step_id": step.step_id,
	}
}

deny contains finding if {
	some step in web_steps
	some name, _ in step.arguments.headers
	lower(name) in {"host", "connection", "content-length", "transfer-encoding", "idempotency-key"}
	finding := {
		"rule": "http_header_reserved",
		"description": sprintf("header %s is set by the platform: leave it out", [name]),
		"severity": "medium",
		"weight": 0.25,
		"step_id": step.step_id,
	}
}

deny contains finding if {
	some step in web_steps
	some name, _ in step.arguments.headers
	lower(name) in {"authorization", "cookie", "proxy-authorization", "x-api-key"}
	finding := {
		"rule": "http_header_secret",
		"description": sprintf("header %s would carry a secret in the plan, which is written down: name a secret with auth instead", [name]),
		"severity": "high",
		"weight": 0.5,
		"step_id": step.step_id,
	}
}

deny contains finding if {
	some step in web_steps
	text := sent(step)
	some pattern in data.secrets.patterns
	regex.match(pattern, text)
	finding := {
		"rule": "secret_in_arguments",
		"description": "what would be sent holds a secret, and arguments are written down: name the secret instead",
		"severity": "critical",
		"weight": 0.6,
		"step_id": step.step_id,
	}
}

deny contains finding if {
	some step in web_steps
	count(sent(step)) > data.limits.body_chars
	finding := {
		"rule": "http_body_too_large",
		"description": sprintf("what would be sent is longer than %v characters: send a reference to it", [data.limits.body_chars]),
		"severity": "medium",
		"weight": 0.25,
		"step_id": step.step_id,
	}
}

escalate contains finding if {
	some step in web_steps
	step.tool == "notify"
	text := sent(step)
	some word in data.limits.everyone
	contains(text, word)
	finding := {
		"rule": "notify_everyone",
		"description": sprintf("it speaks to everyone in the channel (%s); a human decides", [word]),
		"severity": "low",
		"weight": 0.1,
		"step_id": step.step_id,
	}
}

escalate contains finding if {
	some step in http_steps
	step.url.path == "/"
	method(step) in {"PUT", "PATCH"}
	finding := {
		"rule": "http_write_root",
		"description": "it would replace what stands at the root of the server; a human decides",
		"severity": "medium",
		"weight": 0.25,
		"step_id": step.step_id,
	}
}
