// generate ADDRESS PROMPT prints a completion as it is generated.
package main

import (
	"context"
	"fmt"
	"os"

	"quire"
	quirev1 "quire/v1"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: generate ADDRESS PROMPT")
		os.Exit(2)
	}
	if err := generate(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func generate(address, prompt string) error {
	client, err := quire.Connect(address)
	if err != nil {
		return err
	}
	defer client.Close()
	request := &quirev1.GenerateRequest{Input: &quirev1.GenerateRequest_Text{Text: prompt}}
	err = client.GenerateStream(context.Background(), request, func(piece *quirev1.GenerateStreamResponse) error {
		fmt.Print(piece.GetText())
		return nil
	})
	fmt.Println()
	return err
}
