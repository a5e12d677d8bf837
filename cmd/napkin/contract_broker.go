package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/napkin-kit/napkin/contracttest/broker"
	"github.com/napkin-kit/napkin/contracttest/pact"
)

// brokerFlags say which broker. Credentials come from the environment alone: command lines are seen by others.
type brokerFlags struct {
	Broker  string        `placeholder:"URL" env:"PACT_BROKER_BASE_URL" help:"The Pact Broker. Credentials are PACT_BROKER_TOKEN, or PACT_BROKER_USERNAME and PACT_BROKER_PASSWORD."`
	Timeout time.Duration `default:"30s" help:"When to give up waiting for one answer of the broker."`
}

func (b brokerFlags) client() (*broker.Client, error) {
	if b.Broker == "" {
		return nil, errors.New("no Pact Broker: set PACT_BROKER_BASE_URL or give --broker URL")
	}
	return broker.New(b.Broker, &broker.Config{
		Token: os.Getenv("PACT_BROKER_TOKEN"), Username: os.Getenv("PACT_BROKER_USERNAME"), Password: os.Getenv("PACT_BROKER_PASSWORD"),
		Timeout: b.Timeout,
	})
}

// versionOrCommit is the version of what is built: as given, else git's commit.
func versionOrCommit(ctx context.Context, given string) (string, error) {
	if given != "" {
		return given, nil
	}
	out, err := exec.CommandContext(ctx, "git", "rev-parse", "HEAD").Output()
	if err != nil {
		return "", errors.New("no version: this is no git repository with a commit; give --version")
	}
	return strings.TrimSpace(string(out)), nil
}

// branchOr is the branch that is built: as given, as the CI system says, or as git does. CI systems check out a
// commit without a branch.
func branchOr(ctx context.Context, given string) string {
	branch := cmp.Or(given, os.Getenv("GITHUB_HEAD_REF"), os.Getenv("GITHUB_REF_NAME"),
		os.Getenv("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME"), os.Getenv("CI_COMMIT_BRANCH"))
	if branch != "" {
		return branch
	}
	out, err := exec.CommandContext(ctx, "git", "symbolic-ref", "--quiet", "--short", "HEAD").Output()
	if err != nil {
		return "" // no branch; the broker needs none
	}
	return strings.TrimSpace(string(out))
}

// contractPublishCmd is `napkin contract publish`.
type contractPublishCmd struct {
	Paths    []string    `arg:"" optional:"" help:"Contract files, or directories with them. Defaults to pacts."`
	Version  string      `help:"The consumer's version. Defaults to git's commit."`
	Branch   string      `help:"The consumer's branch. Defaults to what GitHub Actions, GitLab or git say."`
	Tag      []string    `help:"Tags for the version."`
	BuildURL string      `name:"build-url" placeholder:"URL" env:"CI_JOB_URL" help:"Where the build can be looked at."`
	Broker   brokerFlags `embed:""`
}

func (c *contractPublishCmd) Run(ctx context.Context) error {
	files, err := contracts(c.Paths)
	if err != nil {
		return err
	}
	client, err := c.Broker.client()
	if err != nil {
		return err
	}
	version, err := versionOrCommit(ctx, c.Version)
	if err != nil {
		return err
	}
	notices, err := client.Publish(ctx, broker.Publication{
		Version: version, Branch: branchOr(ctx, c.Branch), Tags: c.Tag, BuildURL: c.BuildURL, Pacts: files,
	})
	for _, n := range notices {
		if n.Type != "debug" {
			fmt.Println(n.Text)
		}
	}
	return err
}

// contracts reads the files that paths name, directly or as directories.
func contracts(paths []string) ([]*pact.File, error) {
	if len(paths) == 0 {
		paths = []string{"pacts"}
	}
	var files []*pact.File
	for _, p := range paths {
		info, err := os.Stat(p)
		if err != nil {
			return nil, err
		}
		names := []string{p}
		if info.IsDir() {
			if names, err = filepath.Glob(filepath.Join(p, "*.json")); err != nil {
				return nil, err
			}
			if len(names) == 0 {
				return nil, fmt.Errorf("no contract in %s: run the consumer's tests first (napkin contract test)", p)
			}
			slices.Sort(names)
		}
		for _, name := range names {
			f, err := pact.Read(name)
			if err != nil {
				return nil, err
			}
			files = append(files, f)
		}
	}
	return files, nil
}

// contractCanIDeployCmd is `napkin contract can-i-deploy`.
type contractCanIDeployCmd struct {
	Name    string        `required:"" help:"The service, as contracts call it."`
	Version string        `help:"The version to deploy. Defaults to git's commit."`
	To      string        `required:"" placeholder:"ENVIRONMENT" help:"Where it is to be deployed."`
	Wait    time.Duration `help:"How long to ask again while contracts are not verified yet."`
	Every   time.Duration `default:"10s" help:"How often to ask again."`
	Broker  brokerFlags   `embed:""`
	Reports reports       `embed:""`
}

func (c *contractCanIDeployCmd) Run(ctx context.Context) error {
	if c.Every <= 0 {
		return errors.New("--every must be positive")
	}
	client, err := c.Broker.client()
	if err != nil {
		return err
	}
	version, err := versionOrCommit(ctx, c.Version)
	if err != nil {
		return err
	}
	until := time.Now().Add(c.Wait)
	var answer *broker.Answer
	for {
		if answer, err = client.CanIDeploy(ctx, c.Name, version, c.To); err != nil {
			return err
		}
		if answer.Deployable || answer.Failed > 0 || answer.Unknown == 0 || time.Now().Add(c.Every).After(until) {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(c.Every):
		}
	}
	suite := fmt.Sprintf("%s %s to %s", c.Name, version, c.To)
	var results []outcome
	for _, row := range answer.Matrix {
		fmt.Println(row)
		o := outcome{Suite: suite, Name: row.Consumer + " with " + row.Provider}
		if !row.Success {
			o.Problem = row.String()
		}
		results = append(results, o)
	}
	if !answer.Deployable && !slices.ContainsFunc(results, outcome.failed) {
		results = append(results, outcome{Suite: suite, Name: "can-i-deploy", Problem: answer.Reason})
	}
	if err := c.Reports.write(os.Stdout, results); err != nil {
		return err
	}
	if !answer.Deployable {
		return found("%s %s cannot be deployed to %s: %s", c.Name, version, c.To, answer.Reason)
	}
	fmt.Printf("%s %s can be deployed to %s: %s\n", c.Name, version, c.To, answer.Reason)
	return nil
}

// contractRecordDeploymentCmd is `napkin contract record-deployment`.
type contractRecordDeploymentCmd struct {
	Name    string      `required:"" help:"The service, as contracts call it."`
	Version string      `help:"The version that was deployed. Defaults to git's commit."`
	To      string      `required:"" placeholder:"ENVIRONMENT" help:"Where it was deployed."`
	Broker  brokerFlags `embed:""`
}

func (c *contractRecordDeploymentCmd) Run(ctx context.Context) error {
	client, err := c.Broker.client()
	if err != nil {
		return err
	}
	version, err := versionOrCommit(ctx, c.Version)
	if err != nil {
		return err
	}
	if err := client.RecordDeployment(ctx, c.Name, version, c.To); err != nil {
		return err
	}
	fmt.Printf("%s %s is recorded as deployed to %s\n", c.Name, version, c.To)
	return nil
}
