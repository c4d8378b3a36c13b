// Package addr is the language of addresses: its grammar, one table of address types, one table of options, and the openers by family.
//
// # Theory of operation
//
// An argument of the command line goes through a row of types, each made from the one before:
//
//	argument -> Parse -> Spec    the words: keyword, parameters, options (grammar.go)
//	         -> Bind  -> Bound   every word checked against the tables, values converted, nothing opened (bind.go)
//	         -> Open  -> Source  one endpoint, or with fork one for each peer (source.go)
//	         -> Next  -> relay.Endpoint
//
// An address type is one row, a Type, declared by addType next to its opener in the file of its family. An option is one row, an Option: either
// mechanical (row, sockInt, openFlag, ...: the row says at which phase it does what to a descriptor), or read by an opener through its typed Key. Openers
// call Bound.apply at each phase they go through. Help, reference pages and checks are made from the rows.
package addr
