package main

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

var recipeBlock = regexp.MustCompile("(?s)```sh\n(.*?)```\n(?:```output\n(.*?)```)?")

// The recipes, and the examples for scripts, run as they are printed, each in a network and mount namespace of its own.
func TestRecipes(t *testing.T) {
	for _, page := range []string{"docs/recipes.md", "docs/tls.md", "docs/scripts.md", "docs/hub.md"} {
		t.Run(page, func(t *testing.T) { runRecipes(t, page) })
	}
}

func runRecipes(t *testing.T, page string) {
	if os.Geteuid() != 0 {
		t.Skip("the recipes are for root")
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	blocks := recipeBlock.FindAllStringSubmatch(string(text), -1)
	if len(blocks) < 2 {
		t.Fatalf("only %d recipes found", len(blocks))
	}
	// /run/netns of its own, and whatever a recipe leaves running ends with it.
	const around = `set -eu
mount -t tmpfs none /run
ip link set lo up
trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT
`
	for _, b := range blocks {
		name := strings.SplitN(b[1], "\n", 2)[0]
		t.Run(name, func(t *testing.T) {
			for _, program := range []string{"vde_switch", "openssl"} {
				if _, err := exec.LookPath(program); err != nil && strings.Contains(b[1], program+" ") {
					t.Skip(program + " is not installed")
				}
			}
			cmd := exec.Command("timeout", "-k", "5", "40", "unshare", "--net", "--mount", "bash", "-c", around+b[1])
			cmd.Dir = t.TempDir()
			var stderr strings.Builder
			cmd.Stderr = &stderr
			cmd.WaitDelay = 10 * time.Second
			out, err := cmd.Output()
			if err != nil || b[2] != "" && string(out) != b[2] {
				t.Errorf("%v\nprinted %q\nwanted  %q\n%s", err, out, b[2], stderr.String())
			}
		})
	}
}
