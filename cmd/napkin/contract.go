package main

import (
	"context"
	"fmt"
)

// contractCmd is `napkin contract`.
type contractCmd struct {
	Env contractEnvCmd `cmd:"" help:"Print what to export before go test -tags pact."`
}

type contractEnvCmd struct{}

func (c *contractEnvCmd) Run(context.Context) error {
	fmt.Println("export PACT_DO_NOT_TRACK=true")
	return nil
}
