//go:build tools

// Package tools pins what is built here; nothing imports it.
package tools

import (
	_ "github.com/versity/versitygw/cmd/versitygw"
)
