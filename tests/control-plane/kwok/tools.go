//go:build tools

// Package tools pins what is built here; nothing imports it.
package tools

import (
	_ "sigs.k8s.io/kwok/cmd/kwok"
)
