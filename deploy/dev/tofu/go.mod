// Builds the OpenTofu command line for machines without a terraform. OpenTofu's own go.mod replaces a module,
// and Go honours replacements in the main module only: so this module repeats them, with its debug settings.
module soma.dev/tofu

go 1.26.6
godebug (
	tlsmlkem=0
)
replace github.com/hashicorp/hcl/v2 v2.20.1 => github.com/opentofu/hcl/v2 v2.20.2-0.20251021132045-587d123c2828
