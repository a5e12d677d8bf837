package install_test

import (
	"context"
	"fmt"
	"os"

	"github.com/napkin-kit/napkin/contracttest/install"
)

// What `napkin contract install` does.
func ExampleInstall() {
	dir, err := install.Install(context.Background(), install.Config{Log: os.Stderr})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, variable := range install.Environment(dir) {
		fmt.Println("export", variable)
	}
}
