package breaking_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/napkin-kit/napkin/contracttest/breaking"
)

func Example() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	released, today := filepath.Join(dir, "released.yaml"), filepath.Join(dir, "openapi.yaml")
	_ = os.WriteFile(released, []byte(shopYAML), 0o600)
	_ = os.WriteFile(today, []byte(strings.Replace(shopYAML, "total: {type: integer}", "total: {type: string}", 1)), 0o600)

	changes, err := breaking.OpenAPI(context.Background(), today, breaking.Saved(released), nil)
	if err != nil {
		fmt.Println(err) // such as: oasdiff is not installed; run: go install …
		return
	}
	for _, c := range changes {
		fmt.Printf("%s: %s\n", c.Where, c.Rule)
	}
	// GET /orders/{id}: response-property-type-changed
}

func ExampleAccepted() {
	list, err := breaking.ReadAccepted(strings.NewReader(
		"# Nobody reads total since 2026-10: can-i-deploy says so.\n" +
			"response-optional-property-removed api/openapi.yaml GET /orders/{id}: removed the optional property `total` from the response with the `200` status\n"))
	if err != nil {
		panic(err)
	}
	open, accepted, left := list.Split([]breaking.Change{{
		Rule: "response-optional-property-removed", File: "api/openapi.yaml", Where: "GET /orders/{id}",
		Text: "removed the optional property `total` from the response with the `200` status",
	}})
	fmt.Println(len(open), len(accepted), len(left))
	// Output: 0 1 0
}
