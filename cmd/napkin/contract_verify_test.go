package main

import (
	"os"
	"strings"
	"testing"
)

// teamModule is a module of another team in the current directory. Its tests need no native library.
func teamModule(t *testing.T, tests string) (library string) {
	t.Helper()
	t.Chdir(t.TempDir())
	write(t, "go.mod", "module team.example/order\n\ngo 1.26.0\n")
	write(t, "contract/contract_test.go", "//go:build pact\n\npackage contract\n\nimport \"testing\"\n\n"+tests)
	write(t, "lib/libpact_ffi.so", "")
	write(t, "lib/libpact_ffi.dylib", "")
	write(t, "lib/pact_ffi.dll", "")
	return "lib"
}

func TestVerify(t *testing.T) {
	lib := teamModule(t, `func TestWeb(t *testing.T) {
	t.Run("an order", func(t *testing.T) {})
	t.Run("a list", func(t *testing.T) { t.Error("order breaks its contract with the consumer web: a list\n  status: expected 200, got 404") })
}
func TestApp(t *testing.T) { t.Skip("not on Sundays") }
`)
	verify := []string{"contract", "verify", "--library", lib}
	r := napkin(t, nil, append(verify, "--github", "--junit", "out.xml")...)
	r.expect(t, 1, "1 of 3 contract tests failed")
	if want := "::error file=contract/contract_test.go,line=9,title=team.example/order/contract%3A TestWeb/a_list::order breaks its contract with the consumer web: a list%0A"; !strings.Contains(r.stdout, want) {
		t.Errorf("no %q in:\n%s", want, r.stdout)
	}
	if tests, failures, skipped := suites(t, "out.xml"); tests != 3 || failures != 1 || skipped != 1 {
		t.Errorf("JUnit has %d tests, %d failed, %d skipped", tests, failures, skipped)
	}
	napkin(t, nil, append(verify, "--run", "TestWeb/an_order", "./contract")...).expect(t, 0, "1 contract test passed")
	napkin(t, nil, append(verify, "--run", "TestApp")...).expect(t, 2, "no contract test ran")
	napkin(t, nil, append(verify, "--run", "TestNothing")...).expect(t, 2, "no contract test ran")
	napkin(t, nil, append(verify, "./elsewhere")...).expect(t, 2, "elsewhere")
	napkin(t, nil, "contract", "verify", "--library", "elsewhere").expect(t, 2, "napkin contract install")
	napkin(t, []string{"XDG_CACHE_HOME=" + t.TempDir(), "HOME=" + t.TempDir()}, "contract", "verify").expect(t, 2, "napkin contract install")

	write(t, "contract/hang_test.go", "//go:build pact\n\npackage contract\n\nimport \"testing\"\n\nfunc TestHang(t *testing.T) { select {} }\n")
	napkin(t, nil, append(verify, "--run", "TestHang", "--timeout", "500ms")...).expect(t, 1, "1 of 1 contract test failed")
	write(t, "contract/hang_test.go", "//go:build pact\n\npackage contract\n\nfunc TestHang() { nothing }\n")
	napkin(t, nil, verify...).expect(t, 2, "team.example/order/contract does not build")
}

// What a contract test needs of the environment is there, and a skip for want of the library would be a failure.
func TestVerifySetsTheEnvironment(t *testing.T) {
	lib := teamModule(t, `func TestEnvironment(t *testing.T) {
	for name, want := range map[string]string{"PACT_DO_NOT_TRACK": "true", "CGO_ENABLED": "1", "NAPKIN_TEST_REQUIRE": "pact"} {
		if got := os.Getenv(name); got != want {
			t.Errorf("%s is %q", name, got)
		}
	}
}
`)
	write(t, "contract/contract_test.go", strings.Replace(read(t, "contract/contract_test.go"), "import \"testing\"", "import (\n\"os\"\n\"testing\"\n)", 1))
	napkin(t, nil, "contract", "verify", "--library", lib).expect(t, 0, "1 contract test passed")
	r := napkin(t, nil, "contract", "env", "--library", lib)
	r.expect(t, 0, "export PACT_DO_NOT_TRACK=")
	if !strings.Contains(r.stdout, "export CGO_LDFLAGS=") {
		t.Errorf("got:\n%s", r.stdout)
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
