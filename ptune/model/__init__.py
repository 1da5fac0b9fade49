"""Networks: snippets become feature maps, feature maps become class logits."""
