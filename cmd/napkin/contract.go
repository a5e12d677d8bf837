package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/napkin-kit/napkin/contracttest/breaking"
	"github.com/napkin-kit/napkin/contracttest/install"
)

// contractCmd is `napkin contract`.
type contractCmd struct {
	Install          contractInstallCmd          `cmd:"" help:"Install the native Pact library, and with --tools what finds breaking changes."`
	Env              contractEnvCmd              `cmd:"" help:"Print what to export before go test -tags pact."`
	Verify           contractVerifyCmd           `cmd:"" aliases:"test" help:"Run contract tests: consumers' write contracts, providers' verify them."`
	Publish          contractPublishCmd          `cmd:"" help:"Publish a consumer's contracts to the Pact Broker."`
	CanIDeploy       contractCanIDeployCmd       `cmd:"" name:"can-i-deploy" help:"Ask the Pact Broker whether a version holds its contracts with what is deployed."`
	RecordDeployment contractRecordDeploymentCmd `cmd:"" help:"Tell the Pact Broker that a version was deployed."`
	Breaking         contractBreakingCmd         `cmd:"" help:"Find changes of Protobuf files, OpenAPI documents and event schemas that break consumers."`
}

// libraryFlags say where the native Pact library is.
type libraryFlags struct {
	Library string `placeholder:"DIR" help:"Directory of the native Pact library. Defaults to where napkin contract install puts it."`
}

// environment is what the go command needs to link the library into tests, and the tests to find it.
func (l libraryFlags) environment() ([]string, error) {
	if l.Library == "" {
		dir, err := install.Dir(install.Config{})
		if err != nil {
			return nil, err
		}
		return install.Environment(dir), nil
	}
	dir, err := filepath.Abs(l.Library)
	if err != nil {
		return nil, err
	}
	if files, err := filepath.Glob(filepath.Join(dir, "*pact_ffi.*")); err != nil || len(files) == 0 {
		return nil, fmt.Errorf("there is no native Pact library in %s; napkin contract install fetches one", dir)
	}
	return install.Environment(dir), nil
}

// contractInstallCmd is `napkin contract install`.
type contractInstallCmd struct {
	Tools bool   `help:"Install buf and oasdiff too, which napkin contract breaking runs, with the go command into --bin."`
	Bin   string `default:".cache/bin" placeholder:"DIR" help:"Where --tools puts them."`
}

func (c *contractInstallCmd) Run(ctx context.Context) error {
	if _, err := install.Install(ctx, install.Config{Log: os.Stdout}); err != nil {
		return err
	}
	if !c.Tools {
		return nil
	}
	bin, err := filepath.Abs(c.Bin)
	if err != nil {
		return err
	}
	for _, name := range []string{"buf", "oasdiff"} {
		if p, err := breaking.Tool(name); err == nil {
			fmt.Println(name, "is installed:", p)
			continue
		}
		module := breaking.Modules()[name]
		fmt.Println("building", module)
		cmd := exec.CommandContext(ctx, "go", "install", module)
		cmd.Env = append(os.Environ(), "GOBIN="+bin, "GOFLAGS=", "GOWORK=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go install %s: %w: %s", module, err, out)
		}
	}
	return nil
}

// contractEnvCmd is `napkin contract env`.
type contractEnvCmd struct {
	Library libraryFlags `embed:""`
}

func (c *contractEnvCmd) Run(context.Context) error {
	env, err := c.Library.environment()
	if err != nil {
		return err
	}
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		fmt.Printf("export %s='%s'\n", name, strings.ReplaceAll(value, "'", `'\''`))
	}
	return nil
}
