// Command tunsplice joins any two endpoints, as socat does: it parses two address specifications, opens them, and moves bytes or packets between them.
package main

import "os"

// version is the program's version, as -V prints it and programs see it in SOCAT_VERSION.
const version = "0.1.0-dev"

func main() { os.Exit(run(os.Args)) }
