//go:build tools

// Package tools pins what is built here; nothing imports it.
package tools

import (
	_ "helm.sh/helm/v4/cmd/helm"
)
