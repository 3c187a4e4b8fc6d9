"""JSON schemas of our types, in the OpenAPI document's form."""

from typing import Any

from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

Schema = dict[str, Any]


class PlainJsonSchema(GenerateJsonSchema):
    """Pydantic's schemas without titles of fields, enumerations as `enum`, and dictionaries with all of their keys."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never: a field's title would be its name."""
        return False

    def literal_schema(self, schema: core_schema.LiteralSchema) -> Schema:
        """An enumeration of texts."""
        return {"type": "string", "enum": [*schema["expected"]]}

    def typed_dict_schema(self, schema: core_schema.TypedDictSchema) -> Schema:
        """What the endpoint sends has no other keys."""
        return {**super().typed_dict_schema(schema), "additionalProperties": False}


class FieldsJsonSchema(PlainJsonSchema):
    """For fields that are sent: what is None with us is left out there, and null is refused."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> Schema:
        """The schema without null."""
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> Schema:
        """The schema with its default, if that can be sent."""
        if schema.get("default") in (None, ()):
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)
