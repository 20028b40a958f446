# Terraform: what is applied, destroyed and opened.
package soma.gate

terraform_steps contains step if {
	some step in input.steps
	step.tool == "terraform"
}

applies contains step if {
	some step in terraform_steps
	step.operation == "apply"
}

plans contains step if {
	some step in terraform_steps
	step.operation in {"plan", "validate"}
}

escalate contains finding if {
	some step in applies
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

deny contains finding if {
	some step in applies
	is_number(step.arguments.destroy_count)
	step.arguments.destroy_count > data.limits.destroy_count
	finding := {
		"rule": "terraform_destroys_too_much",
		"description": sprintf("it destroys %v resources at once, more than %v: split the change", [step.arguments.destroy_count, data.limits.destroy_count]),
		"severity": "critical",
		"weight": 0.6,
		"step_id": step.step_id,
	}
}

# An apply that does not say how much it destroys could destroy anything.
escalate contains finding if {
	some step in applies
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
	some step in terraform_steps
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

escalate contains finding if {
	some step in plans
	step.arguments.destroy == true
	finding := {
		"rule": "terraform_destroy_planned",
		"description": "the plan is one that destroys; a human decides before it is made",
		"severity": "medium",
		"weight": 0.25,
		"step_id": step.step_id,
	}
}

deny contains finding if {
	some step in terraform_steps
	not step.operation in {"plan", "validate", "output"}
	step.arguments.workspace in data.terraform.protected
	finding := {
		"rule": "terraform_workspace_protected",
		"description": sprintf("workspace %s is protected: change it by hand", [step.arguments.workspace]),
		"severity": "critical",
		"weight": 0.6,
		"step_id": step.step_id,
	}
}

deny contains finding if {
	some step in plans
	replicas := to_number(step.arguments.variables.replicas)
	replicas > data.limits.replicas
	finding := {
		"rule": "terraform_replicas",
		"description": sprintf("%v replicas are more than %v", [replicas, data.limits.replicas]),
		"severity": "medium",
		"weight": 0.25,
		"step_id": step.step_id,
	}
}

escalate contains finding if {
	some step in plans
	some name, text in step.arguments.module
	contains(text, "0.0.0.0/0")
	finding := {
		"rule": "terraform_open_to_world",
		"description": sprintf("%s opens something to the whole internet; a human decides", [name]),
		"severity": "high",
		"weight": 0.5,
		"step_id": step.step_id,
	}
}

escalate contains finding if {
	some step in plans
	some name, text in step.arguments.module
	regex.match(`resource\s+"(aws_iam|google_.*iam|azurerm_role)_?`, text)
	finding := {
		"rule": "terraform_identity",
		"description": sprintf("%s changes who may do what; a human decides", [name]),
		"severity": "high",
		"weight": 0.5,
		"step_id": step.step_id,
	}
}

deny contains finding if {
	some step in plans
	some name, text in step.arguments.module
	some pattern in data.secrets.patterns
	regex.match(pattern, text)
	finding := {
		"rule": "terraform_secret_in_module",
		"description": sprintf("%s holds a secret, and arguments are written down: name the secret instead", [name]),
		"severity": "critical",
		"weight": 0.6,
		"step_id": step.step_id,
	}
}

deny contains finding if {
	some step in plans
	region := step.arguments.variables.region
	count(data.regions.allowed) > 0
	not region in data.regions.allowed
	finding := {
		"rule": "terraform_region",
		"description": sprintf("region %s is not one that may be used: an operator adds it to regions.allowed", [region]),
		"severity": "medium",
		"weight": 0.25,
		"step_id": step.step_id,
	}
}
